"""What belongs to a backup's moment: that of its journal.

Usage, traces and lineage are written beside the journal. Of a run that goes on they may be ahead of it by
the time they are read; restored, the run would do those attempts again under the same numbers, and count
both. So they are cut to what the journal knows.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

RUNS = "SELECT run_id, evidence_digest FROM run ORDER BY seq"
ATTEMPTS = (
    "SELECT a.run_id, a.step, a.iteration, max(a.attempt) FROM attempt a JOIN run r ON r.run_id = a.run_id"
    " WHERE r.evidence_digest IS NULL GROUP BY a.run_id, a.step, a.iteration"
)


@dataclass(frozen=True, slots=True)
class Moment:
    """`bundles`: digest by run, of those with evidence. `attempts`: the last known one of each step and
    iteration of the others. `at` is in seconds since the epoch.
    """

    at: float
    runs: int
    bundles: Mapping[str, str]
    attempts: Mapping[tuple[str, str, int], int]

    def cut_usage(self, data: bytes) -> bytes:
        """Lines of the spool."""

        def known(line: Mapping[str, Any]) -> bool:
            run_id = line["run_id"]
            step = (run_id, line["step"], int(line.get("iteration", -1)))
            return run_id in self.bundles or int(line["attempt"]) <= self.attempts.get(step, 0)

        return _keep(data, known)

    def cut_lineage(self, data: bytes) -> bytes:
        """Lines of an ended run: of others it is written when they end."""
        return _keep(data, lambda line: line["run_id"] in self.bundles)

    def cut_trace(self, data: bytes, run_id: str) -> bytes:
        """Lines of spans: those that began later are of attempts that will be made again."""
        if run_id in self.bundles:
            return data
        return _keep(data, lambda line: _begin(line) <= self.at)


NOTHING = Moment(0.0, 0, {}, {})


def read_moment(at: float, runs: Iterable[Any], attempts: Iterable[Any]) -> Moment:
    """From the rows that RUNS and ATTEMPTS give."""
    rows = list(runs)
    return Moment(
        at,
        len(rows),
        {run_id: digest for run_id, digest in rows if digest is not None},
        {(run_id, step, iteration): attempt for run_id, step, iteration, attempt in attempts},
    )


class HeldFolder:
    """Files of a folder that stay readable although their owner removes them: links to the same content."""

    def __init__(self, folder: Path, held: Path) -> None:
        self._folder = folder
        self.held = held

    def hold(self, files: Callable[[Path], Iterator[Path]]) -> None:
        """Takes hold of what there is now; what was held before stays."""
        for path in files(self._folder):
            target = self.held / path.relative_to(self._folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                if target.exists():
                    if target.samefile(path):
                        continue
                    target.unlink()
                os.link(path, target)
            except FileNotFoundError:
                continue
            except OSError:  # a file system without links
                shutil.copy2(path, target)


@contextmanager
def hold_folder(folder: Path, scratch: Path) -> Iterator[HeldFolder]:
    """`scratch` has to lie on the same file system."""
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="backup-", dir=scratch) as held:
        yield HeldFolder(folder, Path(held))


def _keep(data: bytes, wanted: Callable[[Mapping[str, Any]], bool]) -> bytes:
    return b"".join(line for line in data.splitlines(keepends=True) if _is_wanted(line, wanted))


def _is_wanted(line: bytes, wanted: Callable[[Mapping[str, Any]], bool]) -> bool:
    try:
        return wanted(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError):
        return True  # damaged, or of another release: whoever reads it decides


def _begin(line: Mapping[str, Any]) -> float:
    return max(
        int(span["startTimeUnixNano"]) / 1e9
        for resource in line["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    )
