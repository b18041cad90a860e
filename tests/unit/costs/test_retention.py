from __future__ import annotations

import json
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from costs_support import make_event

from maestro_dagster.costs import removal as removal_module
from maestro_dagster.costs.check import check_equality
from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.cube import CUBES, build_cubes
from maestro_dagster.costs.frame import frame_of, list_events
from maestro_dagster.costs.lake import Lake, open_lake
from maestro_dagster.costs.proof import ProofJournal
from maestro_dagster.costs.removal import PREDICATE_TYPE, read_retired
from maestro_dagster.costs.retention import (
    TIER_DAYS,
    KeepPolicy,
    RetentionReport,
    load_keep_policy,
    retain_usage,
    stricter,
)
from maestro_dagster.costs.spool import Spool
from maestro_dagster.costs.table import LakeTable
from maestro_dagster.errors import CostError, EvidenceError
from maestro_dagster.evidence.dsse import read_statement, sign_statement
from maestro_dagster.evidence.key import load_signer, make_key
from maestro_dagster.evidence.trust import KeyTrust

OLD, YOUNG, TODAY = "2026-03-01", "2026-03-25", "2026-04-01"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake")


@pytest.fixture
def journal(tmp_path: Path) -> ProofJournal:
    return ProofJournal(tmp_path / "removals.ndjson")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_key(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def sign(keys: Path) -> Callable[[dict[str, Any]], bytes]:
    signer = load_signer(keys)
    return lambda statement: sign_statement(statement, signer)


def opener(keys: Path) -> Callable[[bytes], Any]:
    pem = (keys / "maestro.pub.pem").read_bytes()
    return lambda bundle: read_statement(KeyTrust([pem]).open_statement(bundle), PREDICATE_TYPE)


def publish(spool: Spool, lake: Lake, day: str, rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        run = row.pop("run", f"run-{day}-{number}")
        scope = {name: row.pop(name) for name in ("retention_tier", "flow", "tenant") if name in row}
        event = make_event(run, occurred_at=f"{day}T10:00:00.000000Z", price="p@1", **row)
        from dataclasses import replace

        with spool.open_run(run) as writer:
            writer.append([replace(event, **scope)])
    compact_day(spool, lake, day, lambda _: True)


def total(lake: Lake, day: str) -> tuple[int, int, int]:
    """Rows, nano-USD and unknown of what is there and what was removed."""
    one = lake.usage.manifest(day)
    assert one is not None
    return tuple(getattr(one, name) + one.retired[name] for name in ("rows", "sum_nano", "unknown"))  # type: ignore[return-value]


def retain(
    lake: Lake, journal: ProofJournal, sign: Any, policy: KeepPolicy | None = None, **more: Any
) -> RetentionReport:
    now = f"{TODAY}T01:45:00Z"
    return retain_usage(lake, policy or KeepPolicy(), journal, sign, today=TODAY, now=now, **more)


def mixed() -> list[dict[str, Any]]:
    return [
        {"retention_tier": "ephemeral-7d", "cost_nano": 1},
        {"retention_tier": "short-30d", "cost_nano": 2, "attempt": 2},
        {"retention_tier": "short-30d", "cost_nano": None, "kind": "compute"},
        {"retention_tier": "standard-365d", "cost_nano": 4},
        {"retention_tier": "legal-hold", "cost_nano": 8},
    ]


def test_each_tier_goes_when_its_days_are_over(
    spool: Spool, lake: Lake, journal: ProofJournal, sign: Any, keys: Path
) -> None:
    publish(spool, lake, OLD, mixed())
    publish(spool, lake, YOUNG, mixed())
    for day in (OLD, YOUNG):
        build_cubes(lake, day)
    before = {day: total(lake, day) for day in (OLD, YOUNG)}
    files = {day: lake.usage.manifest(day).sha256 for day in (OLD, YOUNG)}  # type: ignore[union-attr]
    report = retain(lake, journal, sign)
    assert [
        (one.day, [(tier.tier, tier.rows, tier.nano, tier.unknown) for tier in one.tiers])
        for one in report.removals
    ] == [
        (OLD, [("ephemeral-7d", 1, 1, 0), ("short-30d", 2, 2, 1)])
    ]  # the young day is exactly 7 days old: its last day
    assert {day: total(lake, day) for day in (OLD, YOUNG)} == before
    left = [event.retention_tier for event in list_events(frame_of(lake.usage.read_day(OLD)))]
    assert sorted(left) == ["legal-hold", "standard-365d"]
    assert lake.usage.manifest(YOUNG).sha256 == files[YOUNG]  # type: ignore[union-attr]
    for day in (OLD, YOUNG):
        outcome = check_equality(lake, day)
        assert (outcome.passed, len(outcome.facts)) == (True, 1 + len(CUBES)), outcome.message
    ((line, statement),) = journal.statements(opener(keys))
    predicate = statement["predicate"]
    assert line.digest == report.removals[0].proof
    assert statement["subject"][0]["digest"]["sha256"] == files[OLD] == predicate["before"]["sha256"]
    assert predicate["after"]["sha256"] == lake.usage.manifest(OLD).sha256  # type: ignore[union-attr]
    assert predicate["removed"]["tiers"][1] == {
        "tier": "short-30d",
        "rows": 2,
        "sum_usd": "0.000000002",
        "unknown": 1,
    }
    assert retain(lake, journal, sign).removals == ()


def test_what_is_removed_twice_from_a_day_adds_up_and_late_usage_rebuilds_the_cubes(
    spool: Spool, lake: Lake, journal: ProofJournal, sign: Any, keys: Path
) -> None:
    publish(spool, lake, OLD, mixed())
    build_cubes(lake, OLD)
    retain(lake, journal, sign)
    publish(spool, lake, OLD, [{"retention_tier": "short-30d", "cost_nano": 16, "run": "late"}])
    build_cubes(lake, OLD)
    assert check_equality(lake, OLD).passed
    second = retain(lake, journal, sign)
    assert [one.nano for one in second.removals] == [16]
    manifest = lake.usage.manifest(OLD)
    assert manifest is not None
    assert manifest.retired == {"rows": 4, "sum_nano": 19, "unknown": 1, "removals": 2}
    assert total(lake, OLD) == (6, 31, 1)
    assert check_equality(lake, OLD).passed
    retired = read_retired(lake, OLD)
    assert retired is not None
    assert sum(retired.column("events").to_pylist()) == 4
    assert sum(retired.column("cost_usd").to_pylist()) == Decimal("0.000000019")
    assert len(list(journal.statements(opener(keys)))) == 2


def test_holds_keep(spool: Spool, lake: Lake, journal: ProofJournal, sign: Any, tmp_path: Path) -> None:
    tier = {"retention_tier": "ephemeral-7d", "cost_nano": 1}
    publish(spool, lake, OLD, [
        {**tier, "run": "held"}, {**tier, "flow": "audited"}, {**tier, "tenant": "acme"},
        {**tier, "flow": "today"}, {**tier, "run": "spooled"}, dict(tier),
    ])  # fmt: skip
    path = tmp_path / "retention.yaml"
    path.write_text("holds:\n  - {run: held, reason: a case}\n  - {flow: audited}\n  - {tenant: acme}\n")
    policy = load_keep_policy(path, ["today"])
    looked = retain(lake, journal, sign, policy, waiting=["spooled"], dry_run=True)
    assert (looked.held, looked.waiting, [one.rows for one in looked.removals]) == (4, 1, [1])
    assert total(lake, OLD)[0] == lake.usage.manifest(OLD).rows == 6  # type: ignore[union-attr]
    done = retain(lake, journal, sign, policy, waiting=["spooled"])
    assert (done.held, done.waiting, [one.rows for one in done.removals]) == (4, 1, [1])
    assert done.policy == policy.version != load_keep_policy(path).version


def test_what_the_spool_still_has_is_not_brought_back(
    spool: Spool, lake: Lake, journal: ProofJournal, sign: Any
) -> None:
    with spool.open_run("open") as writer:
        event = make_event("open", cost_nano=1, price="p@1", occurred_at=f"{OLD}T10:00:00.000000Z")
        writer.append([event])
        compact_day(spool, lake, OLD, lambda _: False)
        policy = KeepPolicy(longest="short-30d")
        assert retain(lake, journal, sign, policy, waiting=spool.runs()).waiting == 1
    compact_day(spool, lake, OLD, lambda _: True)
    assert [one.nano for one in retain(lake, journal, sign, policy, waiting=spool.runs()).removals] == [1]
    compact_day(spool, lake, OLD, lambda _: True)
    assert total(lake, OLD) == (1, 1, 0)


class KilledError(BaseException):
    """Nothing catches it, and nothing of ours cleans up on it."""


MOMENTS: dict[str, tuple[Any, str]] = {
    "summed": (removal_module, "_add_retired"),
    "swapped": (LakeTable, "write_day"),
    "proven": (ProofJournal, "append"),
}


def die_after(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of writes to tables only that to the usage counts: those of sums come before it."""

    def run(first: Any, *given: Any, **named: Any) -> Any:
        result = function(first, *given, **named)
        if getattr(first, "name", "usage_daily") == "usage_daily":
            raise KilledError
        return result

    return run


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_at_any_moment_leaves_the_day_whole_and_proven(
    spool: Spool,
    lake: Lake,
    journal: ProofJournal,
    sign: Any,
    keys: Path,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(spool, lake, OLD, mixed())
    build_cubes(lake, OLD)
    before = total(lake, OLD)
    owner, name = MOMENTS[moment]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die_after(getattr(owner, name)))
        with pytest.raises(KilledError):
            retain(lake, journal, sign)
    assert total(lake, OLD) == before
    report = retain(lake, journal, sign)
    assert len(report.recovered) == (moment == "swapped")
    assert len(report.removals) == (moment == "summed")
    assert total(lake, OLD) == before
    build_cubes(lake, OLD)
    assert check_equality(lake, OLD).passed
    ((_, statement),) = journal.statements(opener(keys))
    assert statement["predicate"]["removed"]["rows"] == 3
    assert statement["predicate"]["after"]["sha256"] == lake.usage.manifest(OLD).sha256  # type: ignore[union-attr]


def test_a_journal_that_was_touched_is_found(journal: ProofJournal, sign: Any, keys: Path) -> None:
    for number in range(3):
        with journal.turn():
            journal.append(removal_module.describe_removal(
                {"table": "t", "day": OLD, "before": {"file": "f", "sha256": "0" * 64}, "number": number}
            ), sign)  # fmt: skip
    lines = journal.path.read_bytes().splitlines(keepends=True)
    assert len(list(journal.statements(opener(keys)))) == 3
    for damaged in (
        lines[1:],
        [lines[0], lines[2]],
        [lines[1], lines[0], lines[2]],
        [lines[0].replace(b"payload", b"Payload", 1)],
    ):
        journal.path.write_bytes(b"".join(damaged))
        with pytest.raises(CostError) as caught:
            list(journal.statements(opener(keys)))
        assert caught.value.error_code == "proofs-damaged"
    # A line under another place of the chain, made to look right from outside.
    moved = {**json.loads(lines[0]), "previous": ""}
    journal.path.write_bytes(json.dumps(moved, separators=(",", ":")).encode() + b"\n" + lines[1][:50])
    assert len(list(journal.statements(opener(keys)))) == 1  # the torn line does not count
    with journal.turn():
        journal.append(
            removal_module.describe_removal(
                {"table": "t", "day": OLD, "before": {"file": "f", "sha256": "0" * 64}}
            ),
            sign,
        )
    assert len(list(journal.statements(opener(keys)))) == 2
    other = journal.path.parent / "other"
    make_key(other)
    with pytest.raises(CostError, match="not signed by the project") as caught:
        list(journal.statements(opener(other)))
    assert isinstance(caught.value.__cause__, EvidenceError)


def test_tiers_are_ordered_from_the_strictest() -> None:
    assert stricter("long-1825d", "short-30d") == "short-30d"
    days = [days for days in TIER_DAYS.values() if days is not None]
    assert days == sorted(days)
    assert KeepPolicy().expired_tiers(31) == ("ephemeral-7d", "short-30d")
    assert KeepPolicy(longest="short-30d").expired_tiers(31) == tuple(TIER_DAYS)[:4]
    assert "legal-hold" not in KeepPolicy(longest="ephemeral-7d").expired_tiers(100_000)


@pytest.mark.parametrize(
    "text",
    [
        "holds: yes",
        "holds: [{run: a, flow: b}]",
        "longest: legal-hold",
        "hold: []",
        "- 1",
        "holds: [{run: 7}]",
        "{",
    ],
)
def test_a_hold_that_cannot_be_read_stops_everything(tmp_path: Path, text: str) -> None:
    path = tmp_path / "retention.yaml"
    path.write_text(text)
    with pytest.raises(CostError) as caught:
        load_keep_policy(path)
    assert caught.value.error_code == "retention-invalid"


def test_random_removals_keep_every_sum(spool: Spool, lake: Lake, journal: ProofJournal, sign: Any) -> None:
    chosen = random.Random(7)
    tiers = list(TIER_DAYS)
    for day in ("2025-01-01", "2026-02-01", "2026-03-20"):
        publish(spool, lake, day, [
            {"retention_tier": chosen.choice(tiers),
             "cost_nano": chosen.choice([None, chosen.randrange(10**12)]),
             "kind": chosen.choice(["llm", "compute"]), "attempt": chosen.choice([1, 2]),
             "tenant": chosen.choice("ab"), "run": f"{day}-{number // 5}"}
            for number in range(60)
        ])  # fmt: skip
        build_cubes(lake, day)
    before = {day: total(lake, day) for day in lake.usage.days()}
    report = retain(lake, journal, sign)
    assert len(report.removals) == 3
    assert {day: total(lake, day) for day in lake.usage.days()} == before
    for day in before:
        outcome = check_equality(lake, day)
        assert (outcome.passed, len(outcome.facts)) == (True, 4), outcome.message


def test_the_shipped_asset_removes_and_shows_its_proofs(
    spool: Spool, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    import dagster as dg

    from maestro_dagster.project.removal import open_removals, verify_removals
    from maestro_dagster.project.root import find_project
    from maestro_dagster.translate.resource import LakeResource

    root = tmp_path / "shop"
    root.mkdir()
    (root / "pyproject.toml").write_text("[tool.maestro]\n")
    project = find_project(root)
    make_key(project.keys)
    lake = open_lake(project.lake)
    publish(spool, lake, "2020-03-01", mixed())
    monkeypatch.setattr(LakeResource, "open", lambda _: lake)
    monkeypatch.setattr(LakeResource, "spool", lambda _: spool)
    spec = importlib.util.spec_from_file_location(
        "shipped_retention", repository / "assets/usage_retention.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    resource = LakeResource(project=str(root))
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([module.usage_retention], resources={"lake": resource}, instance=instance)
    (event,) = result.get_asset_materialization_events()
    metadata = {name: value.value for name, value in event.materialization.metadata.items()}
    assert metadata["rows_removed"] == 4
    assert "| 2020-03-01 | short-30d | 2 | 0.000000002 | 1 |" in metadata["removed"]
    checked = verify_removals(project)
    assert (checked["lines"], checked["rows"]) == (1, metadata["rows_removed"])
    assert checked["newest"] == metadata["newest_proof"] == next(iter(open_removals(project).read())).digest
