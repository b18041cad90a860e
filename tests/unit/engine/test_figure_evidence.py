"""A receipt that an object store has lost is counted, by one list of what is there."""

from __future__ import annotations

import threading
from pathlib import Path

from maestro_dagster.engine.figure_evidence import Listing, LostReceipts
from maestro_dagster.errors import EvidenceError

PLACE = "s3://bucket/evidence"


class Store:
    """What an object store would list, and how often it was asked."""

    def __init__(self, *runs: str) -> None:
        self.there = set(runs)
        self.asked = 0
        self.broken = False

    def runs(self) -> list[str]:
        self.asked += 1
        if self.broken:
            raise EvidenceError("away", code="evidence-unreachable")
        return list(self.there)


def make(store: Store, now: list[float]) -> LostReceipts:
    return LostReceipts(Listing(PLACE, store.runs), lambda: now[0])


def test_what_a_bucket_has_lost_is_counted_with_one_list(tmp_path: Path) -> None:
    store, now = Store("r1", "r2"), [0.0]
    lost = make(store, now)
    for number in range(1000):
        store.there.add(f"n{number}")
        lost.add(f"n{number}", f"{PLACE}/n{number}.zip")
    lost.add("r1", f"{PLACE}/r1.zip")
    lost.add("r2", f"{PLACE}/r2.zip")
    assert (lost.count(), lost.count(), store.asked) == (0, 0, 1)
    store.there -= {"r1", "n0"}
    assert lost.count() == 0  # not asked again yet
    now[0] += 301
    assert (lost.count(), store.asked) == (2, 2)
    store.there.add("r1")
    now[0] += 301
    assert lost.count() == 1


def test_what_is_sealed_after_the_list_is_not_lost() -> None:
    store, now = Store(), [0.0]
    lost = make(store, now)
    assert lost.count() == 0
    lost.add("r1", f"{PLACE}/r1.zip")
    assert lost.count() == 0
    now[0] += 301
    assert lost.count() == 1


def test_a_store_that_is_away_has_lost_nothing() -> None:
    store, now = Store("r1"), [0.0]
    lost = make(store, now)
    lost.add("r1", f"{PLACE}/r1.zip")
    lost.add("r2", f"{PLACE}/r2.zip")
    assert lost.count() == 1
    store.broken = True
    now[0] += 301
    assert lost.count() == 1


def test_places_that_were_named_before(tmp_path: Path) -> None:
    """Files are looked for where the journal says; of another bucket nothing is known."""
    store, now = Store(), [0.0]
    (tmp_path / "kept.zip").write_bytes(b"")
    lost = make(store, now)
    for run_id, place in {
        "kept": str(tmp_path / "kept.zip"),
        "gone": str(tmp_path / "gone.zip"),
        "else": "s3://another/evidence/else.zip",
    }.items():
        lost.add(run_id, place)
    assert lost.count() == 1
    for number in range(600):  # it is not among the newest any more
        lost.add(f"n{number}", str(tmp_path / "kept.zip"))
    now[0] += 301
    assert lost.count() == 1
    (tmp_path / "gone.zip").write_bytes(b"")
    assert lost.count() == 0


def test_figures_do_not_wait_for_a_slow_store() -> None:
    done = threading.Event()

    def slow() -> list[str]:
        done.wait(30)
        return []

    lost = LostReceipts(Listing(PLACE, slow))
    lost.add("r1", f"{PLACE}/r1.zip")
    assert lost.count() == 0
    done.set()
    assert lost.count() == 1
