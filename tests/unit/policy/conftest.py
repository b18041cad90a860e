"""Fixtures of the policy tests: folders of packs, and engines over them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.policy.engine import EmbeddedEngine

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
