"""The advisory database: a folder of OSV records, indexed once for each state of the folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from maestro_dagster.errors import StepError
from maestro_dagster.steps.osv import normalise_name

MOST_RECORDS = 1_000_000
MOST_RECORD_BYTES = 16 * 1024**2
_SECONDS_A_DAY = 86400.0
_REMEDY = "fill the folder `advisories` with OSV records, for example the export of an OSV database"

_indexes: dict[str, AdvisoryIndex] = {}  # of the last states seen; see load_index
_MOST_INDEXES = 4


@dataclass(frozen=True, slots=True)
class AdvisoryIndex:
    """Records by (ecosystem, normal name). `newest` is when the youngest real record was changed."""

    by_package: Mapping[tuple[str, str], tuple[Mapping[str, Any], ...]]
    records: int
    examples: int
    digest: str  # sha256 over all records
    newest: datetime | None

    def find(self, ecosystem: str, package: str) -> tuple[Mapping[str, Any], ...]:
        return self.by_package.get((ecosystem, normalise_name(ecosystem, package)), ())


def load_index(folder: Path) -> AdvisoryIndex:
    """Raises StepError (`advisories-missing`, `advisories-empty`, `advisories-invalid`)."""
    if not folder.is_dir():
        raise StepError(
            "there is no folder of advisories", place=str(folder), remedy=_REMEDY, code="advisories-missing"
        )
    paths = sorted(folder.rglob("*.json"))[: MOST_RECORDS + 1]
    if not paths or len(paths) > MOST_RECORDS:
        raise StepError(
            f"the folder of advisories holds {'no' if not paths else 'too many'} records",
            place=str(folder),
            remedy=_REMEDY,
            code="advisories-empty",
        )
    state = _fingerprint(folder, paths)
    if state not in _indexes:
        while len(_indexes) >= _MOST_INDEXES:
            _indexes.pop(next(iter(_indexes)))
        _indexes[state] = _read_all(folder, paths)
    return _indexes[state]


def require_fresh(index: AdvisoryIndex, max_age_days: int | None, now: float) -> int | None:
    """The database's age in days, None where it cannot be told. Raises StepError (`advisories-stale`)."""
    age = None if index.newest is None else max(0.0, now - index.newest.timestamp()) / _SECONDS_A_DAY
    if max_age_days is not None and (age is None or age > max_age_days):
        shown = "of unknown age" if age is None else f"{age:.0f} days old"
        raise StepError(
            f"the advisories are {shown}, older than the {max_age_days} days allowed",
            remedy="fetch them anew, or raise advisories_max_age_days",
            code="advisories-stale",
        )
    return None if age is None else int(age)


def _fingerprint(folder: Path, paths: list[Path]) -> str:
    """Names, sizes and times: enough to see a change without reading everything again."""
    found = sha256(str(folder).encode())
    for path in paths:
        status = path.stat()
        found.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}\n".encode())
    return found.hexdigest()


def _read_all(folder: Path, paths: list[Path]) -> AdvisoryIndex:
    by_package: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    content = sha256()
    examples = 0
    newest: datetime | None = None
    for path in paths:
        record, digest = _read_record(path)
        content.update(f"{path.relative_to(folder)}\0{digest}\n".encode())
        if is_example(record):
            examples += 1
        else:
            changed = _read_time(record, path)
            newest = changed if newest is None else max(newest, changed)
        for key in {_key(entry, path) for entry in record.get("affected") or ()}:
            by_package.setdefault(key, []).append(record)
    return AdvisoryIndex(
        by_package={key: tuple(records) for key, records in by_package.items()},
        records=len(paths),
        examples=examples,
        digest="sha256:" + content.hexdigest(),
        newest=newest,
    )


def is_example(record: Mapping[str, Any]) -> bool:
    """Records that ship with a starter, about packages that nobody publishes."""
    return bool((record.get("database_specific") or {}).get("example"))


def _read_record(path: Path) -> tuple[dict[str, Any], str]:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MOST_RECORD_BYTES:
                raise _invalid(path, "it is too large")
            data = file.read()
        record = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise _invalid(path, str(error)) from error
    if not isinstance(record, dict) or not isinstance(record.get("id"), str):
        raise _invalid(path, "it has no id")
    return record, sha256(data).hexdigest()


def _read_time(record: Mapping[str, Any], path: Path) -> datetime:
    try:
        found = datetime.fromisoformat(str(record["modified"]))
    except (KeyError, ValueError) as error:
        raise _invalid(path, "it has no time in `modified`") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _key(entry: Any, path: Path) -> tuple[str, str]:
    try:
        ecosystem = str(entry["package"]["ecosystem"]).partition(":")[0]
        return ecosystem, normalise_name(ecosystem, str(entry["package"]["name"]))
    except (KeyError, TypeError) as error:
        raise _invalid(path, "an affected entry names no package") from error


def _invalid(path: Path, why: str) -> StepError:
    return StepError(
        f"an advisory cannot be read: {why}",
        place=str(path),
        remedy="remove the file or fetch it anew: a database with holes would let things pass",
        code="advisories-invalid",
    )
