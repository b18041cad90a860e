from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def _load(name: str, path: Path) -> None:
    """Importlib mode has no packages, so what tests share is loaded by its path."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


_load("llm_support", Path(__file__).with_name("support.py"))

from llm_support import ledger, make_hub, provider  # noqa: E402, F401 - fixtures
