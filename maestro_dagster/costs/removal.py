"""Taking rows out of a published day, so that a crash at any moment leaves a day whole and proven.

    1. `<journal>.pending.json`  what is about to be removed, durable
    2. `usage_retired`           gets the sums of the rows, under the number of this removal
    3. `usage_daily`             is swapped for the file without them; its manifest has the new number
    4. the journal               gets the signed line; the pending file goes

Before 3 nothing has happened: rows of `usage_retired` with a number that the day's manifest has not reached
do not count. After 3 the next job writes the line that is missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Context, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from maestro_dagster.costs.schema import COUNTS, MONEY
from maestro_dagster.costs.spool import write_error
from maestro_dagster.errors import CostError
from maestro_dagster.manifest.money import format_nano

if TYPE_CHECKING:
    import pyarrow as pa

    from maestro_dagster.costs.lake import Lake
    from maestro_dagster.costs.proof import ProofJournal, Sign

PREDICATE_TYPE: Final = "urn:maestro:usage-removed:v1"
RETIRED: Final = "usage_retired"
GRAIN: Final = (
    "tenant", "project", "env", "flow", "step", "kind", "provider", "model", "phase", "outcome", "retry",
)  # fmt: skip
_WIDE: Final = Context(prec=60)


@dataclass(frozen=True, slots=True)
class TierCount:
    """Rows of one tier: their number, their sum in nano-USD, how many of them have no price."""

    tier: str
    rows: int
    nano: int
    unknown: int

    def to_json(self) -> dict[str, Any]:
        return {
            "tier": self.tier,
            "rows": self.rows,
            "sum_usd": format_nano(self.nano),
            "unknown": self.unknown,
        }

    @classmethod
    def count(cls, table: pa.Table) -> tuple[TierCount, ...]:
        """One for each tier in the rows, in the order of their names."""
        import pyarrow.compute as pc

        found = []
        for tier in sorted(pc.unique(table.column("retention_tier")).to_pylist()):
            costs = table.filter(pc.equal(table.column("retention_tier"), tier)).column("cost_usd")
            found.append(cls(tier, len(costs), _nano(pc.sum(costs).as_py()), costs.null_count))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Removal:
    """What left a day. `before` and `after` are the sha256 of its file; `proof` is its line's digest."""

    day: str
    tiers: tuple[TierCount, ...]
    before: str
    after: str
    proof: str

    @property
    def rows(self) -> int:
        return sum(tier.rows for tier in self.tiers)

    @property
    def nano(self) -> int:
        return sum(tier.nano for tier in self.tiers)

    def to_json(self) -> dict[str, Any]:
        return {
            "day": self.day,
            "tiers": [tier.to_json() for tier in self.tiers],
            "rows": self.rows,
            "sum_usd": format_nano(self.nano),
            "before": f"sha256:{self.before}",
            "after": f"sha256:{self.after}" if self.after else None,
            "proof": self.proof or None,
        }


def remove_rows(
    lake: Lake,
    day: str,
    table: pa.Table,
    going: pa.ChunkedArray,
    journal: ProofJournal,
    sign: Sign,
    stamp: Mapping[str, Any],
) -> Removal | None:
    """Publishes the day without the rows that `going` marks; None when it marks none.

    The caller holds the day's lock and the journal's turn; `table` is the day as published; `stamp` goes
    into the proof. Raises CostError.
    """
    import pyarrow.compute as pc

    gone = table.filter(going)
    manifest = lake.usage.manifest(day)
    if gone.num_rows == 0 or manifest is None:
        return None
    tiers = TierCount.count(gone)
    number = manifest.retired.get("removals", 0) + 1
    retired = {
        "rows": manifest.retired["rows"] + gone.num_rows,
        "sum_nano": manifest.retired["sum_nano"] + sum(tier.nano for tier in tiers),
        "unknown": manifest.retired["unknown"] + sum(tier.unknown for tier in tiers),
        "removals": number,
    }
    predicate = {
        "table": lake.usage.name, "day": day, "removal": number, **stamp,
        "removed": {"rows": gone.num_rows, "tiers": [tier.to_json() for tier in tiers]},
        "before": _describe(asdict(manifest)),
        "retired": _describe_sums(retired),
    }  # fmt: skip
    _keep_pending(journal, predicate)
    _add_retired(lake, day, gone, number)
    after = lake.usage.write_day(day, table.filter(pc.invert(going)), source=manifest.source, retired=retired)
    proof = journal.append(describe_removal({**predicate, "after": _describe(asdict(after))}), sign)
    _pending(journal).unlink(missing_ok=True)
    return Removal(day, tiers, manifest.sha256, after.sha256, proof)


def recover_removal(lake: Lake, journal: ProofJournal, sign: Sign) -> str | None:
    """Writes the proof that a job which was killed could not write; gives the line's digest.

    The caller has the journal's turn.
    """
    path = _pending(journal)
    try:
        pending: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CostError(
            f"what a removal was about to do cannot be read: {error}",
            place=str(path),
            remedy="compare `retired` in the lake's manifests with the journal, then remove the file",
            code="proofs-damaged",
        ) from error
    predicate = pending["predicate"]
    manifest = lake.usage.manifest(predicate["day"])
    done = manifest is not None and manifest.retired.get("removals", 0) >= predicate["removal"]
    proof = None
    if manifest is not None and done and journal.newest() == pending["newest"]:
        # The day may have been compacted since: `after` is what is published now.
        whole = {**predicate, "after": _describe(asdict(manifest)), "recovered": True}
        proof = journal.append(describe_removal(whole), sign)
    path.unlink()
    return proof


def describe_removal(predicate: Mapping[str, Any]) -> dict[str, Any]:
    """The in-toto Statement of a removal; its subject is the file that is no more."""
    before = predicate["before"]
    name = f"{predicate['table']}/day={predicate['day']}/{before['file']}"
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": before["sha256"]}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": dict(predicate),
    }


def read_retired(lake: Lake, day: str) -> pa.Table | None:
    """Sums of what was removed from the day, by `GRAIN`: what a cube adds to the day's usage. None: nothing.

    Columns: `GRAIN`, `events`, `unknown`, the money of the lake as DECIMAL(28,9), its counts.
    """
    import pyarrow.compute as pc

    manifest = lake.usage.manifest(day)
    number = manifest.retired.get("removals", 0) if manifest is not None else 0
    table = lake.table(RETIRED).read_day(day) if number else None
    if table is None:
        return None
    return table.filter(pc.less_equal(table.column("removal"), number)).drop_columns(["removal"])


def sum_rows(table: pa.Table) -> pa.Table:
    """Usage rows added up by `GRAIN`, in the columns of `read_retired`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = table.append_column("retry", pc.greater(table.column("attempt"), 1))
    missing = pc.cast(pc.is_null(table.column("cost_usd")), pa.int64())
    table = table.append_column("unknown", missing)
    added = (*MONEY, *COUNTS, "unknown")
    sums = table.group_by(list(GRAIN), use_threads=False).aggregate(
        [("event_id", "count"), *((name, "sum") for name in added)]
    )
    columns = {name: sums.column(name) for name in GRAIN}
    columns["events"] = sums.column("event_id_count")
    columns["unknown"] = sums.column("unknown_sum")
    for name in MONEY:
        zero = pa.scalar(Decimal("0E-9"), pa.decimal128(28, 9))
        columns[name] = pc.fill_null(sums.column(f"{name}_sum").cast(pa.decimal128(28, 9)), zero)
    for name in COUNTS:
        columns[name] = sums.column(f"{name}_sum")
    return pa.table(columns)


def _add_retired(lake: Lake, day: str, gone: pa.Table, number: int) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = lake.table(RETIRED)
    added = sum_rows(gone)
    added = added.append_column("removal", pa.array([number] * added.num_rows, pa.int32()))
    with table.lock_day(day):
        before = table.read_day(day)
        if before is not None:
            # Of a removal that did not come to its swap nothing counts.
            counted = before.filter(pc.less(before.column("removal"), number))
            added = pa.concat_tables([counted, added.select(counted.column_names)])
        table.write_day(day, added)


def _keep_pending(journal: ProofJournal, predicate: Mapping[str, Any]) -> None:
    path = _pending(journal)
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"newest": journal.newest(), "predicate": predicate}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise write_error(error, path) from error


def _pending(journal: ProofJournal) -> Path:
    return journal.path.with_suffix(".pending.json")


def _describe(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {"file": manifest["file"], "sha256": manifest["sha256"], **_describe_sums(manifest)}


def _describe_sums(sums: Mapping[str, Any]) -> dict[str, Any]:
    return {"rows": sums["rows"], "sum_usd": format_nano(sums["sum_nano"]), "unknown": sums["unknown"]}


def _nano(usd: Decimal | None) -> int:
    return 0 if usd is None else int(_WIDE.scaleb(usd, 9))
