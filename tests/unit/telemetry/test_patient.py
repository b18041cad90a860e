"""Figures are told in time, also while a database does not answer."""

from __future__ import annotations

import threading
import time

import pytest

from maestro_dagster.errors import CostError, DatabaseError
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.metric import Sheet, render_metrics
from maestro_dagster.telemetry.patient import PatientSource


class Source:
    name = "events"

    def __init__(self, gate: threading.Event) -> None:
        self.gate, self.asked = gate, 0

    def fill(self, sheet: Sheet) -> None:
        self.asked += 1
        self.gate.wait(20)
        sheet.add(name.BUDGET_FROZEN, self.asked)


def test_all_that_hang_are_given_up_together_and_asked_once() -> None:
    gate = threading.Event()
    hung = [Source(gate) for _ in range(4)]
    sources = [PatientSource(source, 0.3) for source in hung]
    for _ in range(3):
        start = time.monotonic()
        for source in sources:
            source.ask()
        text = render_metrics(sources).decode()
        assert time.monotonic() - start < 1.0
        assert 'maestro_source_up{source="events"} 0.0' in text
    assert [source.asked for source in hung] == [1] * 4
    gate.set()
    sources[0].ask()
    found = Sheet()
    sources[0].fill(found)
    assert found.values[name.BUDGET_FROZEN] == {(): 1.0}
    found = Sheet()
    sources[0].fill(found)
    assert found.values[name.BUDGET_FROZEN] == {(): 2.0}, "and is read again"


def test_what_a_source_raises_is_raised() -> None:
    class Broken:
        name = "disk"

        def fill(self, sheet: Sheet) -> None:
            raise CostError("broken")

    source = PatientSource(Broken(), 1.0)
    for _ in range(2):
        with pytest.raises(CostError):
            source.fill(Sheet())
    slow = PatientSource(Source(threading.Event()), 0.1)
    with pytest.raises(DatabaseError) as caught:
        slow.fill(Sheet())
    assert caught.value.error_code == "figures-late"
