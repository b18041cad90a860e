"""How long usage is kept, and the job that removes what is older and proves what it removed.

A row is kept for the days of its tier after the day of its use; the tier is its flow's at that time. A legal
hold keeps: the tier `legal-hold`, a flow that says so today, and what `resources/retention.yaml` lists:

    longest: standard-365d           # nothing is kept longer, whatever its tier, legal holds excepted
    holds:
      - {tenant: acme, reason: case 4711}
      - {flow: billing, reason: audit 2026}
      - {run: r1234, reason: incident}

Only days that hold expired rows are written again. What leaves stays counted: in `retired` of the day's
manifest, and by everything that a cube groups by, without runs or people, in the table `usage_retired`; so
usage and retired = cubes, before and after.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from maestro_dagster.costs.removal import Removal, TierCount, recover_removal, remove_rows
from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import pyarrow as pa

    from maestro_dagster.costs.lake import Lake
    from maestro_dagster.costs.proof import ProofJournal, Sign

TIER_DAYS: Final[Mapping[str, int | None]] = {  # strictest first
    "ephemeral-7d": 7,
    "short-30d": 30,
    "standard-365d": 365,
    "long-1825d": 1825,
    "legal-hold": None,
}
_HOLD: Final = "legal-hold"
_KEYS: Final = ("tenant", "flow", "run")
_COLUMNS: Final = ("retention_tier", "tenant", "flow", "run_id", "cost_usd")


@dataclass(frozen=True, slots=True)
class KeepPolicy:
    """What is held, by kind of name. `version` is the digest of all that decides: it stands in each proof."""

    tenants: frozenset[str] = frozenset()
    flows: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()
    longest: str | None = None
    version: str = ""

    def expired_tiers(self, age: int) -> tuple[str, ...]:
        """The tiers whose rows are to go from a day that was `age` days ago."""
        found = []
        for tier, days in TIER_DAYS.items():
            limit = days
            if days is not None and self.longest is not None:
                limit = TIER_DAYS[stricter(tier, self.longest)]
            if limit is not None and age > limit:
                found.append(tier)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class RetentionReport:
    """What was removed, or would be. `held` rows are expired and under a legal hold; `waiting` rows are
    expired and of runs whose usage is still in the spool, which would bring it back.
    """

    today: str
    policy: str
    dry_run: bool
    days: int = 0
    removals: tuple[Removal, ...] = ()
    held: int = 0
    waiting: int = 0
    recovered: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return {
            "today": self.today,
            "policy": self.policy,
            "dry_run": self.dry_run,
            "days_looked_at": self.days,
            "removals": [one.to_json() for one in self.removals],
            "rows": sum(one.rows for one in self.removals),
            "held_rows": self.held,
            "waiting_rows": self.waiting,
            "recovered_proofs": list(self.recovered),
        }


def stricter(one: str, other: str) -> str:
    """The tier that keeps for the shorter time."""
    order = list(TIER_DAYS)
    return min(one, other, key=order.index)


def retain_usage(
    lake: Lake,
    policy: KeepPolicy,
    journal: ProofJournal,
    sign: Sign,
    *,
    today: str,
    now: str,
    waiting: Collection[str] = (),
    run: str = "",
    dry_run: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> RetentionReport:
    """Removes the rows that are older than their tier allows; nothing with `dry_run`.

    Args:
        lake: its table `usage_daily` is rewritten, one day at a time, each under its lease.
        policy: what is held.
        journal: gets a signed line for each day that lost rows.
        sign: makes a Sigstore bundle of a Statement.
        today: YYYY-MM-DD in UTC; age is counted in whole days.
        now: RFC 3339, of the proofs.
        waiting: ids of runs that the spool still has usage of.
        run: what asked for it: an id for the proofs.
        dry_run: only say what would be removed.
        say: is told of each day, for people who wait.

    Raises CostError; days that were done before stay done and proven.

    """
    spooled = frozenset(waiting)
    if dry_run:
        return _look(lake, policy, today, spooled)
    removals: list[Removal] = []
    held = left = count = 0
    with journal.turn():
        recovered = recover_removal(lake, journal, sign)
        for day in lake.usage.days():
            count += 1
            tiers = policy.expired_tiers(_age(day, today))
            if not tiers or not _has_any(lake, day, tiers):
                continue
            with lake.usage.lock_day(day):
                table = lake.usage.read_day(day)
                if table is None:
                    continue
                going, day_held, day_left = _choose(table, tiers, policy, spooled)
                held, left = held + day_held, left + day_left
                stamp = {
                    "policy": policy.version, "removedAt": now, "today": today, "run": run,
                    "kept": {"held": day_held, "waiting": day_left},
                }  # fmt: skip
                removal = remove_rows(lake, day, table, going, journal, sign, stamp)
            if removal is not None:
                _refresh_cubes(lake, day)
                removals.append(removal)
                say(f"{day}: {removal.rows} rows removed")
    return RetentionReport(
        today, policy.version, False, count, tuple(removals), held, left, (recovered,) if recovered else ()
    )


def load_keep_policy(path: Path, held_flows: Collection[str] = ()) -> KeepPolicy:
    """The operator's file, with the flows that are under legal hold today. No file: no more holds.

    Raises CostError (`retention-invalid`): with a hold that cannot be read nothing may be removed.
    """
    from maestro_dagster.manifest.plain_yaml import load_plain_yaml

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise _invalid(str(error.strerror), path) from error
    try:
        value = load_plain_yaml(data) if data.strip() else {}
        holds, longest = _read_policy({} if value is None else value)
    except ValueError as error:
        raise _invalid(str(error), path) from error
    flows = sorted({*holds["flow"], *held_flows})
    decides = [list(TIER_DAYS.items()), longest, sorted(holds["tenant"]), flows, sorted(holds["run"])]
    version = f"sha256:{sha256(json.dumps(decides).encode()).hexdigest()}"
    return KeepPolicy(frozenset(holds["tenant"]), frozenset(flows), frozenset(holds["run"]), longest, version)


def _look(lake: Lake, policy: KeepPolicy, today: str, waiting: frozenset[str]) -> RetentionReport:
    removals: list[Removal] = []
    held = left = count = 0
    for day in lake.usage.days():
        count += 1
        tiers = policy.expired_tiers(_age(day, today))
        table = _read_expired(lake, day, tiers, _COLUMNS) if tiers else None
        manifest = lake.usage.manifest(day)
        if table is None or manifest is None or table.num_rows == 0:
            continue
        going, day_held, day_left = _choose(table, tiers, policy, waiting)
        held, left = held + day_held, left + day_left
        gone = table.filter(going)
        if gone.num_rows:
            removals.append(Removal(day, TierCount.count(gone), manifest.sha256, "", ""))
    return RetentionReport(today, policy.version, True, count, tuple(removals), held, left)


def _refresh_cubes(lake: Lake, day: str) -> None:
    """The day's cubes are of a file that is no more; built again they hold the same sums."""
    from maestro_dagster.costs.cube import CUBES, build_cubes

    if any(lake.table(name).manifest(day) is not None for name in CUBES):
        build_cubes(lake, day)


def _has_any(lake: Lake, day: str, tiers: Sequence[str]) -> bool:
    table = _read_expired(lake, day, tiers, ("retention_tier",))
    return table is not None and table.num_rows > 0


def _read_expired(lake: Lake, day: str, tiers: Sequence[str], columns: Sequence[str]) -> pa.Table | None:
    return lake.usage.read_day(day, columns=columns, filters=[("retention_tier", "in", list(tiers))])


def _choose(
    table: pa.Table, tiers: Sequence[str], policy: KeepPolicy, waiting: frozenset[str]
) -> tuple[pa.ChunkedArray, int, int]:
    """(which rows go, how many expired ones are held, how many wait for the spool)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def among(column: str, names: Collection[str]) -> pa.ChunkedArray:
        return pc.is_in(table.column(column), value_set=pa.array(sorted(names), pa.string()))

    expired = among("retention_tier", tiers)
    held = pc.or_(
        pc.or_(among("tenant", policy.tenants), among("flow", policy.flows)), among("run_id", policy.runs)
    )
    free = pc.and_(expired, pc.invert(held))
    spooled = among("run_id", waiting)
    going = pc.and_(free, pc.invert(spooled))
    counts = [int(pc.sum(mask).as_py() or 0) for mask in (expired, free, going)]
    return going, counts[0] - counts[1], counts[1] - counts[2]


def _age(day: str, today: str) -> int:
    return (date.fromisoformat(today) - date.fromisoformat(day)).days


def _read_policy(value: Any) -> tuple[dict[str, set[str]], str | None]:
    if not isinstance(value, dict) or set(value) - {"holds", "longest"}:
        raise ValueError("the file takes `holds` and `longest` only")
    longest = value.get("longest")
    if longest is not None and (longest not in TIER_DAYS or longest == _HOLD):
        raise ValueError(f"`longest` is none of {', '.join(tier for tier in TIER_DAYS if tier != _HOLD)}")
    holds: dict[str, set[str]] = {key: set() for key in _KEYS}
    listed = value.get("holds") or []
    if not isinstance(listed, list):
        raise ValueError("`holds` is no list")  # noqa: TRY004 - caught above, with the file's name
    for hold in listed:
        keys = [key for key in _KEYS if isinstance(hold, dict) and key in hold]
        if len(keys) != 1 or set(hold) - {*_KEYS, "reason"} or not isinstance(hold[keys[0]], str):
            raise ValueError("a hold names one of `tenant`, `flow`, `run`, and may give a `reason`")
        holds[keys[0]].add(hold[keys[0]])
    return holds, longest


def _invalid(why: str, path: Path) -> CostError:
    return CostError(
        f"what must be kept cannot be read: {why}",
        place=str(path),
        remedy="correct the file; until then nothing is removed",
        code="retention-invalid",
    )
