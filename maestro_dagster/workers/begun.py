"""Which runs a process took on and has not finished with: one empty file each.

A process may die after the journal closed the run and before Dagster knows of its end. The journal
has nothing left to do then, so these files say that somebody must look at the run once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maestro_dagster.workers.guard import RUN_FOLDER


@contextmanager
def mark_begun(home: Path, run_id: str) -> Iterator[None]:
    """The mark stays when the block raises or its process dies."""
    path = _folder(home) / run_id
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch()
    yield
    path.unlink(missing_ok=True)


def begun_runs(home: Path) -> list[str]:
    try:
        return sorted(path.name for path in _folder(home).iterdir())
    except FileNotFoundError:
        return []


def is_begun(home: Path, run_id: str) -> bool:
    return (_folder(home) / run_id).exists()


def _folder(home: Path) -> Path:
    return home / RUN_FOLDER / "begun"
