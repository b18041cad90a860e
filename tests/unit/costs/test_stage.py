from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from costs_support import DAY, make_event
from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.costs import chunk as chunk_module
from maestro_dagster.costs.chunk import read_chunks
from maestro_dagster.costs.compact import compact_day, prune_spool, read_usage
from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.lake import Lake, open_lake
from maestro_dagster.costs.line import decode_line, encode_event
from maestro_dagster.costs.report import sum_known
from maestro_dagster.costs.spool import Spool, resolve_events
from maestro_dagster.costs.stage import read_quarantine, stage_day
from maestro_dagster.errors import CostError

FULL = os.environ.get("MAESTRO_SOAK") == "1"
NEXT = "2026-03-02"


def ended(_: str) -> bool:
    return True


def at(day: str, second: int = 0) -> str:
    return f"{day}T10:00:{second:02d}.000000Z"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake")


def write(spool: Spool, run_id: str, *events: UsageEvent) -> Path:
    with spool.open_run(run_id) as writer:
        writer.append(events)
        return writer.path


# Lines


def test_a_line_says_only_what_is_unusual_and_always_the_price() -> None:
    event = make_event(event_id="a", cost_nano=None, tokens_in=3)
    line = json.loads(encode_event(event))
    assert {"tokens_out", "project", "nano_in", "estimated", "memory_kb_ms"} & line.keys() == set()
    assert line["cost_nano"] is None
    assert line["tokens_in"] == 3
    assert decode_line(encode_event(event)[:-1], "x") == event


texts = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.integers(-(2**63), 2**63 - 1)


@given(texts, texts, numbers, st.none() | numbers, st.booleans(), st.integers(-(2**31), 2**31 - 1))
@settings(max_examples=2000 if FULL else 50, deadline=None)
def test_a_line_reads_back_in_python_and_in_polars(
    model: str, project: str, count: int, cost: int | None, estimated: bool, iteration: int
) -> None:
    from maestro_dagster.costs.frame import frame_lines, list_events

    event = make_event(model=model, bytes_out=count, cost_nano=cost, estimated=estimated)
    event = replace(event, iteration=iteration, project=project, nano_in=cost)
    line = encode_event(event)
    assert decode_line(line[:-1], "x") == event
    assert list_events(frame_lines(line)) == [event]


def test_half_a_character_is_refused_before_it_is_written(spool: Spool) -> None:
    with spool.open_run("run-1") as writer:
        with pytest.raises(CostError) as caught:
            writer.append([make_event(cost_nano=1), make_event(model="\ud800", cost_nano=1)])
        assert caught.value.error_code == "event-invalid"
    assert spool.read_run("run-1") == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cost_nano", "7"), ("cost_nano", 1.5), ("cost_nano", 2**63), ("tokens_in", True), ("estimated", 1),
        ("iteration", 2**31), ("phase", "later"), ("phase", None), ("event_id", None), ("kind", None),
        ("occurred_at", "yesterday"), ("occurred_at", "2026-13-01T00:00:00.000000Z"), ("occurred_at", None),
        ("occurred_at", "2026-03-01 00:00:00"), ("occurred_at", "2026-03-01T25:00:00.000000Z"),
    ],
)  # fmt: skip
def test_a_value_that_no_column_holds_is_refused_with_file_and_line(
    spool: Spool, lake: Lake, field: str, value: Any
) -> None:
    path = write(spool, "run-1", make_event(cost_nano=0), make_event(cost_nano=1), make_event(cost_nano=2))
    lines = path.read_bytes().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), field: value}, separators=(",", ":")).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(CostError) as caught:
        compact_day(spool, lake, DAY, ended)
    assert (caught.value.error_code, caught.value.place) == ("spool-corrupt", f"{path}:2")
    assert lake.usage.days() == ()
    assert path.exists()


# Chunks


def test_every_way_of_cutting_a_file_into_chunks_gives_the_same_lines(tmp_path: Path) -> None:
    events = [make_event(cost_nano=n, occurred_at=at(DAY if n % 3 else NEXT, n)) for n in range(12)]
    lines = [encode_event(event) for event in events]
    lines[4:4] = [b"\n", lines[0][: len(lines[0]) // 2] + b"\n"]  # an empty line and a torn one
    lines.append(lines[0][:-2])  # and the last, torn
    path = tmp_path / "run.1-1.ndjson"
    path.write_bytes(b"".join(lines))
    whole = len(b"".join(lines)) - len(lines[-1])
    for size in (1, 7, 100, 400, 1000, 10**6):
        for day in (DAY, NEXT, "2026-03-03", None):
            chunks = list(read_chunks("run", path, day, size))
            found = [decode_line(line, "x") for c in chunks for line in c.data.split(b"\n") if line]
            assert found == [event for event in events if day is None or event.occurred_at[:10] == day]
            assert sum(c.lines for c in chunks) == len(found)
            assert chunks[-1].end == whole
            others = {other for c in chunks for other in c.others}
            assert others == {DAY, NEXT} - {day}


def test_a_line_in_another_form_of_json_counts_too(spool: Spool, lake: Lake) -> None:
    path = write(spool, "run-1", make_event(cost_nano=1))
    event = {**json.loads(path.read_bytes()), "event_id": "b", "cost_nano": 20, "of_a_later_version": 1}
    with path.open("a") as file:
        file.write(json.dumps(event) + "\n")  # with spaces
    assert compact_day(spool, lake, DAY, ended).sum_nano == 21


def test_a_long_file_of_many_days_stays_until_each_is_published(
    spool: Spool, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Chunks of a few lines: most have nothing of the day that is compacted.
    monkeypatch.setattr(chunk_module, "SIZE", 600)
    monkeypatch.setattr("maestro_dagster.costs.spool.read_chunks", _small_chunks)
    days = [f"2026-03-{number:02d}" for number in range(1, 6)]
    events = [make_event(cost_nano=1, occurred_at=at(day)) for day in days for _ in range(20)]
    path = write(spool, "run-1", *events)
    for day in (*days[1:], days[0]):
        assert path.exists(), day
        result = compact_day(spool, lake, day, ended)
        assert (result.rows, result.balanced) == (20, True)
    assert not path.exists()
    assert sum_known(read_usage(spool, lake)) == (100, 0)


def _small_chunks(run_id: str, path: Path, day: str | None = None) -> Any:
    return read_chunks(run_id, path, day, 600)


# Days


def test_an_event_appended_while_its_run_was_compacted_keeps_the_file(spool: Spool, lake: Lake) -> None:
    path = write(spool, "run-1", make_event(cost_nano=1))
    late = encode_event(make_event(event_id="late", cost_nano=10))

    def check(_: object) -> list[Any]:  # called between reading and publishing
        with path.open("ab") as file:
            file.write(late)
        return []

    assert compact_day(spool, lake, DAY, ended, check).removed == ()
    result = compact_day(spool, lake, DAY, ended)
    assert (result.sum_nano, len(result.removed)) == (11, 1)


def test_a_torn_tail_goes_with_its_file(spool: Spool, lake: Lake) -> None:
    path = write(spool, "run-1", make_event(cost_nano=1))
    with path.open("ab") as file:
        file.write(encode_event(make_event(cost_nano=5))[:-9])
    assert compact_day(spool, lake, DAY, ended).sum_nano == 1
    assert spool.files() == ()


def test_pruning_all_files_removes_what_is_published_only(spool: Spool, lake: Lake) -> None:
    both = [make_event("run-1", cost_nano=1, event_id="a"), make_event("run-1", cost_nano=2, event_id="b")]
    compact_day(spool, lake, DAY, ended)
    write(spool, "run-1", both[0])
    compact_day(spool, lake, DAY, ended)
    write(spool, "run-1", both[0])
    left = write(spool, "run-1", *both)
    assert len(prune_spool(spool, lake, ended)) == 1
    assert [path for _, path in spool.files()] == [left]
    assert prune_spool(spool, lake, lambda _: False) == ()


@dataclass(frozen=True)
class Verdict:
    blocks: bool
    name: str = "check"
    message: str = "wrong"

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "message": self.message}


def test_a_quarantined_day_leaves_readers_and_spool_as_they_were(spool: Spool, lake: Lake) -> None:
    write(spool, "run-1", make_event(cost_nano=1))
    before = compact_day(spool, lake, DAY, ended)
    path = write(spool, "run-2", make_event("run-2", cost_nano=100))
    result = compact_day(spool, lake, DAY, ended, lambda _: [Verdict(blocks=True)])
    assert (result.quarantined, result.rows, result.sum_nano, result.sha256) == (True, 1, 1, before.sha256)
    assert path.exists()
    kept = read_quarantine(lake, DAY)
    assert kept is not None
    assert (kept["rows"], kept["sum_usd"], kept["outcomes"]) == (
        2, "0.000000101", [{"name": "check", "message": "wrong"}],
    )  # fmt: skip
    assert kept["file"] in lake.usage.folder(DAY).names()
    assert sum(name.endswith(".parquet") for name in lake.usage.folder(DAY).names()) == 1
    result = compact_day(spool, lake, DAY, ended, lambda _: [Verdict(blocks=False)])
    assert (result.quarantined, result.sum_nano) == (False, 101)
    assert read_quarantine(lake, DAY) is None
    assert not any(name.startswith("quarantine") for name in lake.usage.folder(DAY).names())


def test_a_candidate_says_what_it_is_made_of(spool: Spool, lake: Lake) -> None:
    write(spool, "run-1", make_event(event_id="a", phase="intent", cost_nano=9))
    compact_day(spool, lake, DAY, ended)
    write(spool, "run-2", make_event("run-2", event_id="a", cost_nano=4), make_event("run-2", cost_nano=None))
    candidate = stage_day(spool, lake, DAY, ended)
    assert [t.num_rows for t in (candidate.published, candidate.spooled, candidate.table)] == [1, 2, 2]
    assert candidate.spooled.schema.equals(candidate.table.schema)
    assert (candidate.changed, candidate.spool_sum_nano, candidate.waiting) == (True, 4, 0)
    assert lake.usage.read_day(DAY).num_rows == 1  # type: ignore[union-attr]


def test_sums_that_no_machine_word_holds_are_exact(spool: Spool, lake: Lake) -> None:
    most = 10**18 - 1
    write(spool, "run-1", *(make_event(cost_nano=most) for _ in range(12)))
    result = compact_day(spool, lake, DAY, ended)
    assert (result.sum_nano, result.lake_sum_nano, result.balanced) == (12 * most, 12 * most, True)


# An event's settlements agree on its cost: a second delivery is a copy.
deliveries = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["intent", "settled"]), st.sampled_from([DAY, NEXT])),
    max_size=14,
)


@given(deliveries, st.randoms(use_true_random=False), st.integers(1, 4))
@settings(max_examples=300 if FULL else 12, deadline=None)
def test_any_order_and_any_duplicates_make_the_same_day(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str, str]], order: Any, parts: int
) -> None:
    days = dict.fromkeys(range(6), DAY) | {name: day for name, _, day in rows}
    events = [
        make_event(f"run-{name}", event_id=f"e{name}", phase=phase, occurred_at=at(days[name], name),
                   cost_nano=10**name * (1 + (phase == "intent")))
        for name, phase, _ in rows
    ]  # fmt: skip
    expected = resolve_events(sorted(events, key=lambda event: event.phase != "settled"))
    root = tmp_path_factory.mktemp("merge")
    spool, lake = Spool(root / "spool"), open_lake(root / "lake")
    shuffled = [*events, *order.choices(events, k=5)] if events else []
    order.shuffle(shuffled)
    for part in range(parts):  # in several compactions, each with a part of the deliveries
        for event in shuffled[part::parts]:
            write(spool, event.run_id, event)
        for day in order.sample([DAY, NEXT], 2):
            assert compact_day(spool, lake, day, ended).balanced
    assert spool.files() == ()
    found = lake.read_events()
    assert sorted(found, key=lambda e: e.event_id) == sorted(expected, key=lambda e: e.event_id)


# Killed at any moment

_WRITER = """
import random, sys
from pathlib import Path
from maestro_dagster.costs.event import UsageScope
from maestro_dagster.costs.spool import Spool
root, name, count, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
scope = UsageScope("t", name, "f", "s", 1)
days = ["2026-03-01"] * 9 + ["2026-02-27"]
before = []
with Spool(root / "spool").open_run(name) as writer:
    for number in range(count):
        batch = [
            scope.make_event("llm", event_id=f"{name}-{number}-{i}", cost_nano=rng.randrange(10**9),
                             occurred_at=rng.choice(days) + f"T{rng.randrange(24):02d}:00:00.{number:06d}Z")
            for i in range(rng.choice([1, 1, 40]))
        ]
        writer.append(batch + rng.sample(before, min(len(before), 2)))
        before = batch
        for event in batch:
            print(event.event_id, event.cost_nano, flush=False)
        sys.stdout.flush()
"""
_COMPACTOR = """
import random, sys
from pathlib import Path
import maestro_dagster.costs.frame, polars, pyarrow.parquet
from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.lake import open_lake
from maestro_dagster.costs.spool import Spool
root = Path(sys.argv[1])
spool, lake = Spool(root / "spool"), open_lake(root / "lake")
while True:
    for day in spool.days():
        compact_day(spool, lake, day, lambda run: True)
"""


@pytest.mark.slow
def test_writers_and_compactors_killed_at_random_moments_lose_and_repeat_nothing(tmp_path: Path) -> None:
    rng = random.Random(11)
    acknowledged: dict[str, int] = {}
    stop = time.monotonic() + (120 if FULL else 4)
    rounds = 0
    while time.monotonic() < stop:
        rounds += 1
        writers = []
        for number in range(2):
            command = [sys.executable, "-c", _WRITER, str(tmp_path), f"run-{rounds}-{number}", "400"]
            with (tmp_path / f"said-{rounds}-{number}").open("wb") as said:
                writers.append(subprocess.Popen([*command, str(rng.randrange(10**9))], stdout=said))
        compactors = [
            subprocess.Popen([sys.executable, "-c", _COMPACTOR, str(tmp_path)], stderr=subprocess.DEVNULL)
            for _ in range(2)
        ]
        time.sleep(rng.uniform(0.3, 2.5))
        for process in (*writers, *compactors):
            time.sleep(rng.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
            process.wait()
        for said in tmp_path.glob(f"said-{rounds}-*"):
            lines = said.read_text(encoding="utf-8").split("\n")[
                :-1
            ]  # what follows the last newline was not said
            acknowledged |= {name: int(cost) for name, cost in map(str.split, lines)}
    spool, lake = Spool(tmp_path / "spool"), open_lake(tmp_path / "lake")
    for day in spool.days():
        assert compact_day(spool, lake, day, ended).balanced
    assert spool.files() == ()
    events = lake.read_events()
    found = {event.event_id: event.cost_nano for event in events}
    assert len(found) == len(events)  # none twice
    assert found.items() >= acknowledged.items()  # none lost
    assert acknowledged
    # What was written and not yet said may be there too: at most the last batch of each writer.
    assert len(found) - len(acknowledged) <= 40 * 2 * rounds
    assert sum(lake.usage.verify_day(day).sum_nano for day in lake.usage.days()) == sum(
        cost or 0 for cost in found.values()
    )
