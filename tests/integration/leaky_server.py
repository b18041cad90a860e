"""The server of `maestro dev` on a project that leaks: what it is told, and all that it can be asked for."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from leaky_plant import STEPS, WEBHOOK_SECRET, Planted

from maestro_dagster.project.root import Project

_META = """
fragment M on MetadataEntry { __typename label description ... on TextMetadataEntry { text }
  ... on MarkdownMetadataEntry { mdStr } ... on JsonMetadataEntry { jsonString }
  ... on PathMetadataEntry { path } ... on UrlMetadataEntry { url } ... on FloatMetadataEntry { floatValue } }
"""
RUNS = """{ runsOrError { ... on Runs { results { runId status pipelineName runConfigYaml
  tags { key value } assets { key { path } } stepStats { stepKey status } } } } }"""
EVENTS = (
    """query($id: ID!, $cursor: String) { logsForRun(runId: $id, afterCursor: $cursor, limit: 500) {
  __typename ... on EventConnection { cursor hasMore events { __typename
    ... on MessageEvent { message level eventType stepKey }
    ... on DisplayableEvent { label description metadataEntries { ...M } }
    ... on ErrorEvent { error { message stack className errorChain { error { message stack } } } }
    ... on MaterializationEvent { partition tags { key value } }
    ... on ExecutionStepFailureEvent { failureMetadata { metadataEntries { ...M } } }
    ... on AssetCheckEvaluationEvent { evaluation { checkName description metadataEntries { ...M } } }
    ... on LogsCapturedEvent { fileKey externalUrl } } } } }"""
    + _META
)
CAPTURED = """query($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr }
  capturedLogsMetadata(logKey: $key) { stdoutLocation stdoutDownloadUrl } }"""
ASSETS = (
    """{ assetNodes { assetKey { path } description metadataEntries { ...M } tags { key value }
  assetMaterializations(limit: 50) { runId partition label description message tags { key value }
    metadataEntries { ...M } }
  assetChecksOrError { ... on AssetChecks { checks { name description executionForLatestMaterialization {
    evaluation { description metadataEntries { ...M } } } } } } } }"""
    + _META
)


class Server:
    """Runs from `start` to `stop`. `replies` is all that it answered, as bytes with their headers."""

    def __init__(self, project: Project, environment: dict[str, str], folder: Path, planted: Planted) -> None:
        self.project = project
        self.replies: list[tuple[str, bytes]] = []
        self._environment = environment
        self._folder = folder
        self._planted = planted
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._tip = self._make_repository()

    def start(self) -> None:
        with (self.project.home / "dev.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "maestro_dagster", "dev", "--port", str(self._port), "--no-daemon"],
                cwd=self.project.root,
                env={**self._environment, "MAESTRO_LOG_FORMAT": "json"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_for(lambda: self.ask("/readyz", keep=False)[1].find(b'"ui":"ready"') > 0, 120, "the UI")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(90)
            self._process = None

    def wait_for(self, found: Callable[[], Any], seconds: float, what: str) -> Any:
        end = time.monotonic() + seconds
        while not (value := found()):
            said = (self.project.home / "dev.log").read_text(errors="replace")[-3000:]
            assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s; {said}"
            assert self._process is None or self._process.poll() is None, said
            time.sleep(0.2)
        return value

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        keep: bool = True,
    ) -> tuple[int, bytes]:
        """One request; 0 where nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("GET" if body is None else "POST", path, body, headers or {})
            reply = connection.getresponse()
            data = reply.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()
        if reply.getheader("content-encoding") == "gzip" or data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        if keep:
            told = "".join(f"{name}: {value}\n" for name, value in reply.getheaders()).encode()
            self.replies.append((f"{path[:30]} {reply.status}", told + data))
        return reply.status, data

    def query(self, text: str, **variables: Any) -> Any:
        body = json.dumps({"query": text, "variables": variables}).encode()
        status, data = self.ask("/dagster/graphql", body, {"Content-Type": "application/json"})
        answer = json.loads(data)
        assert status == 200, data[:2000]
        assert not answer.get("errors"), answer["errors"]
        return answer["data"]

    def deliver(self) -> list[int]:
        """A pull request with secrets wherever a text may stand, then all the ways to be refused."""
        secrets = self._planted.some()
        event = {"X-GitHub-Event": "pull_request"}
        body = json.dumps(self._pull_request(secrets)).encode()
        ways: list[tuple[str, bytes, dict[str, str]]] = [("shop", body, self._sign(body) | event)]
        for number, secret in enumerate(secrets):
            plain = secret if secret.isascii() and secret.isprintable() else quote(secret, safe="")
            told = {"Authorization": f"Bearer {plain}", "Cookie": f"session={plain}", "User-Agent": plain}
            broken = f'{{"token": "{secret}", '.encode()
            other = json.dumps({"repository": {"full_name": secret[:80]}, "zen": secret}).encode()
            pushed = json.dumps(self._push(plain, number)).encode()
            ways += [
                ("shop", pushed, self._sign(pushed, plain) | {"X-GitHub-Event": "push"} | told),
                ("shop", body, {"X-Hub-Signature-256": f"sha256={plain}"} | event | told),
                ("shop", body, event | told),
                ("shop", broken, self._sign(broken, plain) | event | told),
                ("shop", other, self._sign(other, plain) | {"X-GitHub-Event": "ping"} | told),
                ("shop", pushed, self._sign(pushed, plain) | {"X-GitHub-Event": plain} | told),
                (quote(secret, safe=""), body, self._sign(body, plain) | event | told),
                (f"shop?token={quote(secret, safe='')}", b"", told),
            ]
        kind = {"Content-Type": "application/json"}
        return [self.ask(f"/webhooks/{name}", data, told | kind)[0] for name, data, told in ways]

    def look(self) -> None:
        """Everything that is there to be read."""
        for path in ("/", "/healthz", "/readyz", "/metrics", "/dagster/", "/dagster/server_info"):
            self.ask(path)
        for secret in self._planted.some():
            for way in ("/{}", "/metrics?x={}", "/dagster/logs/{}", "/dagster/graphql?query={}"):
                self.ask(way.format(quote(secret, safe="")), headers={"Referer": quote(secret)})
        for run in self.query(RUNS)["runsOrError"]["results"]:
            self.ask(f"/dagster/download_debug/{run['runId']}")
            for event in self._events(run["runId"]):
                if event["__typename"] == "LogsCapturedEvent":
                    key = [run["runId"], "compute_logs", event["fileKey"]]
                    self.query(CAPTURED, key=key)
                    for kind in ("out", "err"):
                        self.ask(f"/dagster/logs/{'/'.join(key)}/{kind}")
        assets = self.query(ASSETS)["assetNodes"]
        assert len(assets) >= 2 * (STEPS + 3), "steps, one more, SBOM and evidence, of two flows"

    def _events(self, run_id: str) -> Iterator[Any]:
        cursor = None
        while True:
            found = self.query(EVENTS, id=run_id, cursor=cursor)["logsForRun"]
            yield from found["events"]
            if not found["hasMore"]:
                return
            cursor = found["cursor"]

    def _sign(self, body: bytes, delivery: str = "72d3162e-cc78-11e3-81ab-4c9367dc0958") -> dict[str, str]:
        digest = hmac.new(WEBHOOK_SECRET.encode(), body, hashlib.sha256).hexdigest()
        return {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Delivery": delivery}

    def _pull_request(self, secrets: list[str]) -> dict[str, Any]:
        text = " and ".join(secrets)
        request = {
            "number": 7,
            "title": f"use {secrets[1]} and {secrets[-2]}",
            "body": text,
            "html_url": f"https://example.org/pull/7?token={secrets[1]}",
            "labels": [{"name": secret[:50]} for secret in secrets if len(secret) < 50],
            "head": {
                "ref": f"try-{secrets[1]}",
                "sha": self._tip,
                "repo": {"id": 1, "full_name": secrets[1]},
            },
            "base": {"ref": "main", "sha": self._tip, "repo": {"id": 1}},
        }
        return {
            "action": "opened",
            "pull_request": request,
            "repository": {"full_name": "acme/shop", "default_branch": "main", "description": text},
            "sender": {"login": secrets[1], "token": text},
        }

    def _push(self, secret: str, number: int) -> dict[str, Any]:
        """Of a branch whose name is a secret, as far as that can be one. No flow wants it."""
        return {
            "ref": f"refs/heads/{quote(secret, safe='')}",
            "before": "0" * 40,
            "after": f"{number:040x}".replace("0", "a"),
            "repository": {"full_name": "acme/shop"},
            "head_commit": {"message": secret},
            "commits": [],
        }

    def _make_repository(self) -> str:
        def git(*arguments: str, where: Path) -> str:
            identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
            command = ["git", *identity, *arguments]
            return subprocess.run(command, cwd=where, check=True, capture_output=True, text=True).stdout

        work, bare = self._folder / "lib", self._folder / "shop.git"
        git("init", "--quiet", "--initial-branch=main", str(work), where=self._folder)
        (work / "file").write_text("x")
        git("add", "file", where=work)
        git("commit", "--quiet", "-m", f"feat: use {self._planted.shaped[0]}", where=work)
        git("clone", "--quiet", "--bare", str(work), str(bare), where=self._folder)
        forge = {
            "name": "shop",
            "forge": "github",
            "repository": "acme/shop",
            "clone": str(bare),
            "secrets": ["SHOP"],
        }
        path = self.project.root / "resources" / "forges.yaml"
        path.write_text(json.dumps({"repositories": [forge]}))
        return git("rev-parse", "HEAD", where=work).strip()
