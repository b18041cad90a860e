"""What an artifact cost with all that it was made of: graphs, not trees, over many runs and days."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maestro_dagster.costs.ancestry import Ancestry
from maestro_dagster.costs.artifact import compact_lineage
from maestro_dagster.costs.explain import (
    explain_artifact,
    explain_run,
    explain_step,
    find_run,
    trace,
)
from maestro_dagster.costs.lake import open_lake
from maestro_dagster.costs.lineage import LineageInput, LineageRecord, lineage_days, write_lineage
from maestro_dagster.errors import CostError
from maestro_dagster.manifest.money import parse_usd

DAYS = tuple(f"2026-03-{number:02d}" for number in range(1, 10))


def digest_of(name: str) -> str:
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def record(name: str, *inputs: Any, **values: Any) -> LineageRecord:
    """`name` is run/step; inputs are records, or digests whose maker nobody noted."""
    run_id, step = name.split("/")
    made_of = tuple(
        LineageInput(each)
        if isinstance(each, str)
        else LineageInput(each.digest, each.run_id, each.step, each.iteration, each.day)
        for each in inputs
    )
    values.setdefault("day", str(values.get("finished_at", DAYS[0]))[:10])
    plain = LineageRecord(
        run_id=run_id,
        flow="flow",
        flow_digest=digest_of("flow"),
        step=step,
        iteration=-1,
        uses="pkg:test/make@1.0.0",
        status="done",
        attempts=1,
        day=DAYS[0],
        finished_at=f"{DAYS[0]}T10:00:00.000000Z",
        digest=digest_of(name),
        inputs=made_of,
    )
    return replace(plain, **values)


def keep(folder: Path, *records: LineageRecord, days: tuple[str, ...] | None = None) -> Ancestry:
    """Writes them as their runs' ends do; those of `days` (None: none of them) go into the lake."""
    runs: dict[str, list[LineageRecord]] = {}
    for each in records:
        runs.setdefault(each.run_id, []).append(each)
    for run_id, group in runs.items():
        write_lineage(folder / "spool", run_id, group)
    lake = open_lake(folder / "lake")
    for day in days or ():
        compact_lineage(folder / "spool", lake, day, bool)
    return Ancestry(folder / "spool", lake)


def test_what_is_shared_is_counted_once(tmp_path: Path) -> None:
    top = record("r/top", known_nano=1000)
    left, right = record("r/left", top, known_nano=10), record("r/right", top, known_nano=100)
    end = record("r/end", left, right, known_nano=1)
    value = explain_artifact(keep(tmp_path, top, left, right, end), end.digest[:19])
    assert value["total"]["cost_usd"] == "0.000001111"
    assert value["own"]["cost_usd"] == "0.000000001"
    assert value["inputs"]["cost_usd"] == "0.00000111"
    # Each input alone has all that it was made of: together they are more than the whole.
    assert [each["with_inputs"]["cost_usd"] for each in value["direct_inputs"]] == ["0.00000101", "0.0000011"]
    assert [each["step"] for each in value["made_of"]] == ["top", "right", "left", "end"]
    assert [each["depth"] for each in value["made_of"]] == [2, 1, 1, 0]


def test_a_lineage_goes_through_runs_and_days_in_spool_and_lake(tmp_path: Path) -> None:
    first = record("a/one", known_nano=1, finished_at=f"{DAYS[0]}T23:59:59.000000Z")
    second = record("a/two", first, known_nano=2, finished_at=f"{DAYS[1]}T00:00:01.000000Z")
    reader = record("b/read", second.digest, known_nano=4, finished_at=f"{DAYS[4]}T00:00:00.000000Z")
    last = record("c/last", reader.digest, known_nano=8, finished_at=f"{DAYS[8]}T00:00:00.000000Z")
    for days in (None, DAYS[:2], DAYS[:5], DAYS):
        value = explain_step(keep(tmp_path, first, second, reader, last, days=days), "c", "last")
        assert value["total"]["cost_usd"] == "0.000000015"
        assert value["lineage"] == {"records": 4, "runs": 3, "depth": 3}


def test_of_several_makings_the_newest_before_its_reader_counts(tmp_path: Path) -> None:
    same = digest_of("same")
    makings = [
        record(f"m{number}/make", known_nano=10**number, digest=same, finished_at=f"{day}T12:00:00.000000Z")
        for number, day in enumerate(DAYS[:3])
    ]
    early = record("e/read", same, finished_at=f"{DAYS[1]}T13:00:00.000000Z")
    late = record("l/read", same, finished_at=f"{DAYS[7]}T13:00:00.000000Z")
    pointing = record("p/read", makings[0], finished_at=f"{DAYS[7]}T13:00:00.000000Z")
    both = record("z/both", early, late, finished_at=f"{DAYS[8]}T00:00:00.000000Z")
    for days in (None, DAYS[:2], DAYS):
        ancestry = keep(tmp_path, *makings, early, late, pointing, both, days=days)
        assert explain_step(ancestry, "e", "read")["total"]["cost_usd"] == "0.00000001"
        assert explain_step(ancestry, "l", "read")["total"]["cost_usd"] == "0.0000001"
        assert explain_step(ancestry, "p", "read")["total"]["cost_usd"] == "0.000000001"  # it knows which one
        assert explain_step(ancestry, "z", "both")["total"]["cost_usd"] == "0.00000011"
        value = explain_artifact(ancestry, same)
        assert value["run_id"] == "m2"
        assert [each["run_id"] for each in value["other_makings"]] == ["m1", "m0"]


def test_what_a_step_passes_on_is_followed_to_who_made_it(tmp_path: Path) -> None:
    made = record("r/make", known_nano=100)
    gate = record("r/gate", made, digest=made.digest, known_nano=1, finished_at=f"{DAYS[0]}T10:00:01.000000Z")
    reader = record("r/read", gate, finished_at=f"{DAYS[0]}T10:00:02.000000Z")
    ancestry = keep(tmp_path, made, gate, reader)
    assert explain_step(ancestry, "r", "read")["total"]["known_usd"] == "0.000000101"
    assert explain_artifact(ancestry, made.digest)["step"] == "gate"
    # A run that reads an asset and passes it on does not find itself.
    again = record("s/gate", made.digest, digest=made.digest, finished_at=f"{DAYS[1]}T00:00:00.000000Z")
    assert explain_step(keep(tmp_path, again), "s", "gate")["total"]["known_usd"] == "0.000000101"


def test_what_reuse_saved_and_what_nobody_knows_any_more(tmp_path: Path) -> None:
    made = record("r/make", known_nano=100)
    taken = record("s/make", digest=made.digest, status="reused", reused=True, source_run="r", saved_nano=100)
    lost = record("s/lost", status="reused", reused=True, source_run="gone", saved_nano=None)
    end = record("s/end", taken, lost, known_nano=1, finished_at=f"{DAYS[1]}T00:00:00.000000Z")
    ancestry = keep(tmp_path, made, taken, lost, end)
    value = explain_step(ancestry, "s", "end")
    assert (value["total"]["known_usd"], value["total"]["cost_usd"]) == ("0.000000101", None)
    assert value["saved"] == {"reused": 2, "saved_usd": "0.0000001", "unknown": 1}
    assert [each["run_id"] for each in value["without_record"]] == ["gone"]
    assert explain_artifact(ancestry, made.digest)["reuse"] == {
        "runs": 1, "reused": 1, "saved_usd": "0.0000001", "unknown": 0,
    }  # fmt: skip
    run = explain_run(ancestry, "s")
    assert (run["total"]["cost_usd"], run["saved"]["saved_usd"]) == ("0.000000001", "0.0000001")
    assert {each["step"]: each["saved_usd"] for each in run["steps"]} == {
        "make": "0.0000001", "lost": None, "end": "0",
    }  # fmt: skip


def test_unknown_prices_and_waste_come_down_the_lineage(tmp_path: Path) -> None:
    first = record("r/a", known_nano=7, unknown=1, missing=("llm openai gpt",), failed_nano=2, retry_nano=3)
    second = record("r/b", first, known_nano=10, failed_nano=1, retry_nano=1)
    value = explain_step(keep(tmp_path, first, second), "r", "b")
    assert value["own"]["cost_usd"] == "0.00000001"
    assert value["total"] == {
        "cost_usd": None, "known_usd": "0.000000017", "unknown_events": 1, "failed_usd": "0.000000003",
        "retry_usd": "0.000000004",
    }  # fmt: skip
    assert value["missing"] == ["llm openai gpt"]


def test_a_step_that_made_nothing_is_explained_too(tmp_path: Path) -> None:
    ancestry = keep(
        tmp_path, record("r/a", digest="", status="failed", known_nano=3, failed_nano=3), days=DAYS
    )
    value = explain_step(ancestry, "r", "a")
    assert (value["digest"], value["own"]["failed_usd"]) == (None, "0.000000003")


def test_a_cycle_in_damaged_lineage_ends(tmp_path: Path) -> None:
    one = record("r/one", known_nano=1)
    two = record("r/two", one, known_nano=2)
    one = replace(one, inputs=(LineageInput(two.digest, "r", "two"),))
    assert explain_step(keep(tmp_path, one, two), "r", "one")["total"]["known_usd"] == "0.000000003"


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ("sha256:12345678901", "digest-invalid"),
        ("sha256:" + "x" * 64, "digest-invalid"),
        ("0" * 65, "digest-invalid"),
        ("0" * 64, "artifact-unknown"),
        ("abcdefabcdef", "digest-ambiguous"),
    ],
)
def test_a_digest_must_name_one_artifact(tmp_path: Path, asked: str, code: str) -> None:
    twins = [
        record(f"r/{tail}", digest=f"sha256:abcdefabcdef{tail * 52}", finished_at=f"{day}T00:00:00.000000Z")
        for tail, day in (("0", DAYS[0]), ("f", DAYS[1]))
    ]
    ancestry = keep(tmp_path, *twins, days=DAYS[:1])
    with pytest.raises(CostError) as caught:
        explain_artifact(ancestry, asked)
    assert caught.value.error_code == code
    for twin in twins:
        assert explain_artifact(ancestry, twin.digest[:20])["digest"] == twin.digest


def test_a_run_or_step_that_left_no_lineage_is_refused(tmp_path: Path) -> None:
    ancestry = keep(tmp_path, record("r/a"))
    for asked, code in ((("nobody", "a"), "lineage-missing"), (("r", "b"), "step-unknown")):
        with pytest.raises(CostError) as caught:
            explain_step(ancestry, *asked)
        assert caught.value.error_code == code


@st.composite
def graphs(draw: st.DrawFn) -> list[LineageRecord]:
    """Runs over several days; inputs from the same run, from others by name, or by digest alone."""
    made: list[LineageRecord] = []
    for number in range(draw(st.integers(2, 16))):
        moment = f"{DAYS[number // 3]}T{number:02d}:00:00.000000Z"
        values = {
            "known_nano": draw(st.integers(0, 10**12)),
            "unknown": draw(st.sampled_from((0, 0, 0, 1))),
            "failed_nano": 0,
            "finished_at": moment,
        }
        chosen = st.lists(st.sampled_from(made), max_size=3, unique_by=id) if made else st.just([])
        inputs = [each.digest if draw(st.booleans()) else each for each in draw(chosen)]
        made.append(record(f"run{number // draw(st.integers(1, 3))}/step{number}", *inputs, **values))
    return made


@settings(
    max_examples=300 if os.environ.get("MAESTRO_SOAK") == "1" else 8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(graphs(), st.integers(0, len(DAYS)))
def test_any_graph_costs_what_a_plain_walk_adds_up(
    tmp_path_factory: pytest.TempPathFactory, made: list[LineageRecord], published: int
) -> None:
    ancestry = keep(tmp_path_factory.mktemp("graph"), *made, days=DAYS[:published])
    by_digest = {each.digest: each for each in made}

    def walk(root: LineageRecord, seen: dict[str, LineageRecord]) -> dict[str, LineageRecord]:
        seen[root.digest] = root
        for each in root.inputs:
            if each.digest not in seen:
                walk(by_digest[each.digest], seen)
        return seen

    for root in made:
        lineage = trace(ancestry, root)
        expected = walk(root, {})
        assert {each.digest for each in lineage.records.values()} == expected.keys()
        assert lineage.lost == {}
        value = explain_step(ancestry, root.run_id, root.step)
        assert parse_usd(value["total"]["known_usd"]) == sum(each.known_nano for each in expected.values())
        assert value["total"]["unknown_events"] == sum(each.unknown for each in expected.values())
    # Alone, the artifacts of all runs add up to what all runs cost: nothing is counted twice.
    runs = {each.run_id for each in made}
    own = [each for run_id in runs for each in find_run(ancestry, run_id).values()]
    assert sum(each.known_nano for each in own) == sum(each.known_nano for each in made)
    totals = [explain_run(ancestry, run_id)["total"]["known_usd"] for run_id in runs]
    assert sum(map(parse_usd, totals)) == sum(each.known_nano for each in made)


def test_days_that_wait_are_named(tmp_path: Path) -> None:
    keep(tmp_path, record("a/x", finished_at=f"{DAYS[3]}T00:00:00.000000Z"), record("b/x"))
    assert lineage_days(tmp_path / "spool") == (DAYS[0], DAYS[3])
