"""Verdicts by a real OPA 1.x: one `opa eval` per pack, with a time limit and nothing nondeterministic.

For packs that the embedded engine refuses. `opa eval` costs some 25 ms a pack and keeps no state, so
there is no server to watch. What a pack asks of the world (`http.send`, `opa.runtime`, the clock) is
taken out of OPA's capabilities; a builtin that fails is an error, as in the embedded engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maestro_dagster.errors import PolicyError
from maestro_dagster.policy.interface import Decision, Verdict
from maestro_dagster.policy.pack import Pack
from maestro_dagster.policy.verdict import RULES, deny_pack, judge_pack

_PACKAGE = re.compile(r"^[ \t]*package[ \t]+(\S+)", re.MULTILINE)
_MAX_OUTPUT = 16 * 1024 * 1024


class OpaEngine:
    """OPA as a command. `seconds` is the limit of one pack's evaluation, compiling included."""

    def __init__(self, folder: Path, command: str, *, seconds: float = 10.0) -> None:
        self.folder = folder
        self.command = command
        self.seconds = seconds
        self._version = ""
        self._lock = threading.Lock()
        self._work: tempfile.TemporaryDirectory[str] | None = None

    def evaluate(self, document: Mapping[str, Any]) -> Decision:
        from maestro_dagster.policy.engine import decide

        return decide(self.folder, document, self._ask, lambda: self._version or "opa")

    def close(self) -> None:
        with self._lock:
            if self._work is not None:
                self._work.cleanup()
                self._work = None

    def _ask(self, pack: Pack, text: str) -> Verdict:
        try:
            work = self._prepare()
            folder = _lay_out(work, pack)
            said = self._run(
                [
                    *("eval", "--format=json", "--stdin-input", "--strict-builtin-errors"),
                    *(f"--capabilities={work / 'capabilities.json'}", f"--data={folder}"),
                    _query(pack),
                ],
                text.encode(),
            )
        except PolicyError as error:
            return deny_pack(pack, error.error_code, error.fact, error.remedy)
        answer = json.loads(said)
        if "result" not in answer:
            return deny_pack(
                pack, "pack-load-failed", _first_error(answer), "mend the pack; `maestro policy test`"
            )
        found = answer["result"][0]["expressions"][0]["value"]
        return judge_pack(
            pack, [{"value": found[rule][0]} if found[rule] else {"undefined": True} for rule in RULES]
        )

    def _prepare(self) -> Path:
        """A folder with OPA's capabilities less what is not deterministic; made once."""
        with self._lock:
            if self._work is None:
                version = self._run(["version"], b"").decode(errors="replace")
                found = re.search(r"^Version:\s*(\S+)", version, re.MULTILINE)
                if found is None or found[1].startswith("0."):
                    raise PolicyError(
                        f"{self.command} is no OPA 1.x",
                        remedy="set opa_command to an `opa` of version 1 or later",
                        code="engine-missing",
                    )
                capabilities = json.loads(self._run(["capabilities", "--current"], b""))
                capabilities["builtins"] = [
                    builtin for builtin in capabilities["builtins"] if not builtin.get("nondeterministic")
                ]
                capabilities["allow_net"] = []
                work = tempfile.TemporaryDirectory(prefix="maestro-opa-")
                Path(work.name, "capabilities.json").write_text(json.dumps(capabilities))
                self._version, self._work = f"opa {found[1]}", work
            return Path(self._work.name)

    def _run(self, arguments: list[str], data: bytes) -> bytes:
        try:
            done = subprocess.run(
                [self.command, *arguments],
                input=data,
                capture_output=True,
                timeout=self.seconds,
                check=False,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": os.devnull},
                cwd="/",
            )
        except OSError as error:
            raise PolicyError(
                f"OPA cannot be started as {self.command!r}: {error.strerror}",
                remedy="install OPA 1.x and set opa_command, or use policy_engine = 'regorus'",
                code="engine-missing",
            ) from error
        except subprocess.TimeoutExpired as error:
            raise PolicyError(
                f"the evaluation took longer than its time limit ({self.seconds:g} s)",
                remedy="simplify the pack: a rule probably iterates over its input several times",
                code="pack-timeout",
            ) from error
        if not done.stdout or len(done.stdout) > _MAX_OUTPUT:
            said = done.stderr.decode(errors="replace").strip().splitlines() or [
                f"exit code {done.returncode}"
            ]
            raise PolicyError(
                f"OPA failed: {said[-1][:500]}", remedy="run `opa check` on it", code="pack-crashed"
            )
        return done.stdout


def _lay_out(work: Path, pack: Pack) -> Path:
    """The pack's own bytes in a folder named by their digest: what was digested is what is loaded."""
    for name, text in pack.modules:
        found = _PACKAGE.search(text)
        package = found[1] if found else "?"
        if package != f"maestro.{pack.name}" and not package.startswith(f"maestro.{pack.name}."):
            raise PolicyError(
                f"the package {package} of {name} does not belong to the pack {pack.name}",
                remedy=f"start the file with `package maestro.{pack.name}`",
                code="pack-load-failed",
            )
    folder = work / pack.digest.removeprefix("sha256:")
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        made = Path(temporary, "pack")
        for name, text in pack.modules:
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if pack.data is not None:
            (made / pack.name / "data.json").write_text(json.dumps(pack.data[pack.name]))
        with contextlib.suppress(OSError):  # another thread was first
            made.rename(folder)
    return folder


def _query(pack: Pack) -> str:
    return "{" + ", ".join(f'"{rule}": [x | x := {pack.package}.{rule}]' for rule in RULES) + "}"


def _first_error(answer: Mapping[str, Any]) -> str:
    errors = answer.get("errors") or [{"message": "OPA gave no result"}]
    place = errors[0].get("location", {})
    file = Path(place.get("file", "")).name
    return f"{file}:{place.get('row', '?')}: {errors[0].get('message', '')}" if file else errors[0]["message"]
