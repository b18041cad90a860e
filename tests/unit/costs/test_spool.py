from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from costs_support import make_event
from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.costs.spool import Spool, SpoolWriter, encode_event, read_file, resolve_events
from maestro_dagster.errors import CostError

FULL = os.environ.get("MAESTRO_SOAK") == "1"


def test_what_was_appended_is_read_back(spool: Spool) -> None:
    events = [make_event(cost_nano=number, model='m "\n ü') for number in (None, 0, 1, 2**60)]
    with spool.open_run("run-1") as writer:
        writer.append(events[:2])
        writer.append(events[2:], durable=False)
    assert spool.read_run("run-1") == events
    assert spool.read_run("run-2") == []


def test_a_run_whose_name_begins_like_another_is_kept_apart(spool: Spool) -> None:
    for run in ("a", "a.b", "a.b.1-2"):
        with spool.open_run(run) as writer:
            writer.append([make_event(run, cost_nano=1)])
    assert [len(spool.read_run(run)) for run in ("a", "a.b", "a.b.1-2")] == [1, 1, 1]
    assert spool.runs() == ("a", "a.b", "a.b.1-2")


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", ".hidden", "a\0b"])
def test_a_run_id_that_would_leave_the_folder_is_refused(spool: Spool, run_id: str) -> None:
    with pytest.raises(CostError) as caught:
        spool.open_run(run_id)
    assert caught.value.error_code == "run-id-invalid"


def test_each_cut_of_the_last_line_loses_that_line_only(tmp_path: Path) -> None:
    lines = [encode_event(make_event(cost_nano=number)) for number in range(3)]
    whole = b"".join(lines)
    path = tmp_path / "run.1-1.ndjson"
    for cut in (*range(len(whole) - len(lines[-1]), len(whole), 1 if FULL else 7), len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert [event.cost_nano for event in read_file(path)] == [0, 1], cut


def test_a_write_after_a_torn_tail_starts_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "run.1-1.ndjson"
    torn = encode_event(make_event(cost_nano=1))[:-20]
    path.write_bytes(encode_event(make_event(cost_nano=0)) + torn)
    with SpoolWriter(path) as writer:
        writer.append([make_event(cost_nano=2)])
        writer.append([make_event(cost_nano=3)])
    assert [event.cost_nano for event in read_file(path)] == [0, 2, 3]


@pytest.mark.parametrize("line", [b"{]}", b'{"event_id":"x"}', b"[]", b"null", b"\xff\xfe{}"])
def test_a_damaged_line_is_an_error_that_names_it(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "run.1-1.ndjson"
    path.write_bytes(encode_event(make_event(cost_nano=0)) + line + b"\n")
    with pytest.raises(CostError) as caught:
        list(read_file(path))
    assert caught.value.error_code == "spool-corrupt"
    assert caught.value.place.endswith(":2")


def test_one_file_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "run.1-1.ndjson"
    with SpoolWriter(path), pytest.raises(CostError):
        SpoolWriter(path)


def test_a_full_disk_counts_nothing_of_the_batch_and_the_next_write_is_whole(spool: Spool) -> None:
    with spool.open_run("run-1") as writer:
        writer.append([make_event(cost_nano=1)])
        size = writer.path.stat().st_size
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            # The kernel writes what still fits and refuses the rest, as on a full disk.
            resource.setrlimit(resource.RLIMIT_FSIZE, (size * 2 + 100, before[1]))
            with pytest.raises(CostError):
                writer.append([make_event(cost_nano=number) for number in range(10)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        assert writer.path.stat().st_size == size
        writer.append([make_event(cost_nano=2)])
    assert [event.cost_nano for event in spool.read_run("run-1")] == [1, 2]


def test_out_of_space_is_called_so(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with spool.open_run("run-1") as writer:
        writer.append([make_event(cost_nano=1)])
        kept = os.dup(writer._file)
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, writer._file)
        with pytest.raises(CostError) as caught:
            writer.append([make_event(cost_nano=2)])
        assert caught.value.error_code == "disk-full"
        os.dup2(kept, writer._file)
        os.close(kept)
        os.close(full)
        writer.append([make_event(cost_nano=3)])
    assert [event.cost_nano for event in spool.read_run("run-1")] == [1, 3]


intents = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["intent", "settled"]), st.integers(0, 9)), max_size=12
)


@given(intents)
@settings(max_examples=2000 if FULL else 60, deadline=None)
def test_each_event_counts_once_and_a_settlement_beats_its_intent(rows: list[tuple[str, str, int]]) -> None:
    events = [make_event(event_id=name, phase=phase, cost_nano=cost) for name, phase, cost in rows]
    found = {event.event_id: event for event in resolve_events(events)}
    assert found.keys() == {name for name, _, _ in rows}
    for name, event in found.items():
        mine = [(phase, cost) for other, phase, cost in rows if other == name]
        settled = [row for row in mine if row[0] == "settled"]
        assert (event.phase, event.cost_nano) == (settled or mine)[0]


_WRITER = """
import sys
from pathlib import Path
from maestro_dagster.costs.event import UsageScope
from maestro_dagster.costs.spool import Spool
scope = UsageScope("t", "run-1", "f", "s", 1)
with Spool(Path(sys.argv[1])).open_run("run-1") as writer:
    for number in range(10**9):
        writer.append([scope.make_event("llm", event_id=str(number), cost_nano=1) for _ in range(1)])
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()
"""


def test_sigkill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    for round_ in range(50 if FULL else 2):
        folder = tmp_path / str(round_)
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(random.randint(1, 200)):
            process.stdout.readline()
        process.kill()
        rest = process.stdout.read()
        process.wait()
        process.stdout.close()
        whole = [line for line in rest.splitlines() if line]
        events = Spool(folder).read_run("run-1")
        assert len(events) == len({event.event_id for event in events})
        if len(whole) > 1:
            assert len(events) >= int(whole[-2]) + 1
