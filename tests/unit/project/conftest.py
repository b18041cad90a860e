"""A small project in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

FLOW = """\
name: {name}
version: 1.0.0
tasks:
  - id: one
    uses: pkg:text/template@1.0.0
    with: {{template: hello}}
"""


@pytest.fixture(autouse=True)
def _no_outside_project(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAESTRO_PROJECT", "MAESTRO_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "assets").mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[project]\nname = "shop"\n[tool.maestro]\n')
    (folder / "assets" / "first.yaml").write_text(FLOW.format(name="first"))
    return folder
