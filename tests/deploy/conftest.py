"""The files below deploy/, and the outside tools that judge them.

A tool that is absent skips its tests and says how to get it; `.ci/run` installs all of them.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_SPEC = importlib.util.spec_from_file_location("deploy_support", _HERE / "support.py")
assert _SPEC is not None
assert _SPEC.loader is not None
# Importlib mode has no packages, so what tests share is loaded by its path.
sys.modules["deploy_support"] = _SUPPORT = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_SUPPORT)


@pytest.fixture(scope="session")
def deploy(repository: Path) -> Path:
    return repository / "deploy"


@pytest.fixture(scope="session")
def promtool() -> str:
    return str(_SUPPORT.find_tool("promtool", "the Debian package prometheus has it"))


@pytest.fixture(scope="session")
def recorded(deploy: Path) -> frozenset[str]:
    """Names that our recording rules make."""
    text = (deploy / "prometheus" / "rules.yaml").read_text(encoding="utf-8")
    return frozenset(_SUPPORT.RECORD.findall(text))
