from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from maestro_dagster.costs.spool import Spool


def _load(name: str, path: Path) -> None:
    """Importlib mode has no packages, so what tests share is loaded by its path."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


_load("costs_support", Path(__file__).with_name("support.py"))
_load("costs_trace", Path(__file__).with_name("trace.py"))
_load("budget_support", Path(__file__).with_name("budget_support.py"))


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")
