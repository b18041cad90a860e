"""Whoever was told that an event is taken in finds it in the inbox, however long that was away."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from maestro_dagster.errors import DatabaseError, EventError
from maestro_dagster.events.inbox import Inbox
from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.events.late import LateEvents


class Away:
    """An inbox that is away when it is told to be."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.away = False

    def accept(self, events: Sequence[RepositoryEvent]) -> Sequence[bool]:
        if self.away:
            raise DatabaseError("the database does not answer", code="database-unreachable")
        return self.inbox.accept(events)


@pytest.fixture
def remote(tmp_path: Path) -> Away:
    return Away(Inbox(tmp_path / "inbox", tmp_path / "inbox" / "inbox.sqlite"))


def make(number: int, ref: str = "refs/heads/main") -> RepositoryEvent:
    facts = {"forge": "github", "labels": ["a", "é"], "fork": True}
    return RepositoryEvent(
        f"event-{number:04}", "/srv/x.git", "0" * 40, "a" * 40, ref, time.time(), "webhook", "x", "pr", facts
    )


def test_what_comes_while_the_inbox_is_away_gets_there_as_it_was(remote: Away, tmp_path: Path) -> None:
    late = LateEvents(tmp_path / "late", remote.accept)
    remote.away = True
    kept = [make(1), make(2)]
    assert list(late.accept(kept)) == [True, True]
    assert late.is_waiting()
    assert remote.inbox.recent() == ()
    remote.away = False
    again = LateEvents(tmp_path / "late", remote.accept)  # another process, after a crash
    assert again.hand_over() == 1
    assert sorted(remote.inbox.recent(), key=lambda event: event.event_id) == kept
    assert not again.is_waiting()


def test_the_first_event_is_durable_with_its_folder(
    remote: Away, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def note(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", note)
    remote.away = True
    late = LateEvents(tmp_path / "inbox" / "late", remote.accept)
    late.accept([make(1)])
    folder = tmp_path / "inbox"
    assert synced[0] == str(folder)  # or a power cut takes the folder, with all that is in it
    assert synced[-1] == str(folder / "late")
    synced.clear()
    late.accept([make(2)])
    assert str(folder) not in synced


def test_what_waits_goes_first(remote: Away, tmp_path: Path) -> None:
    late = LateEvents(tmp_path / "late", remote.accept)
    remote.away = True
    late.accept([make(2)])
    late.accept([make(1)])
    remote.away = False
    assert list(late.accept([make(3)])) == [True]
    assert remote.inbox.pending() == ()
    assert late.hand_over() == 3
    assert list(late.accept([make(3), make(4)])) == [False, True]
    assert [event.event_id for event in remote.inbox.pending()] == [
        "event-0002",
        "event-0001",
        "event-0003",
        "event-0004",
    ]


def test_a_crash_between_handing_over_and_deleting_repeats_nothing(remote: Away, tmp_path: Path) -> None:
    late = LateEvents(tmp_path / "late", remote.accept)
    remote.away = True
    late.accept([make(1)])
    remote.away = False
    remote.inbox.accept([make(1)])
    assert late.hand_over() == 1
    assert len(remote.inbox.recent()) == 1


def test_an_event_that_is_malformed_is_refused_at_once(remote: Away, tmp_path: Path) -> None:
    late = LateEvents(tmp_path / "late", remote.accept)
    for remote.away in (False, True):
        with pytest.raises(EventError) as caught:
            late.accept([make(1), make(2, "main")])
        assert caught.value.error_code == "event-malformed"
    assert not late.is_waiting()


def test_when_neither_takes_it_nobody_is_told_that_it_is_taken(remote: Away, tmp_path: Path) -> None:
    (tmp_path / "late").write_text("no folder")
    remote.away = True
    with pytest.raises(EventError) as caught:
        LateEvents(tmp_path / "late", remote.accept).accept([make(1)])
    assert caught.value.error_code == "inbox-unusable"
    assert "does not answer" in caught.value.fact


def test_a_file_of_somebody_else_holds_nobody_up(remote: Away, tmp_path: Path) -> None:
    late = LateEvents(tmp_path / "late", remote.accept)
    remote.away = True
    late.accept([make(1)])
    for name, text in (("0", "no json"), ("1", "[1]"), ("2", '[{"event_id": "x"}]'), ("3", "{}")):
        (tmp_path / "late" / f"{name}.json").write_text(text)
    (tmp_path / "late" / "9.tmp").write_text("torn")
    remote.away = False
    assert late.hand_over() >= 1
    assert [event.event_id for event in remote.inbox.recent()] == ["event-0001"]
    assert not list((tmp_path / "late").glob("*.json"))


def test_one_that_does_not_answer_is_not_waited_for(remote: Away, tmp_path: Path) -> None:
    answers = threading.Event()

    def accept(events: Sequence[RepositoryEvent]) -> Sequence[bool]:
        answers.wait(20)
        return remote.accept(events)

    late = LateEvents(tmp_path / "late", accept, patience=0.1)
    assert list(late.accept([make(1)])) == [True]
    assert list(late.accept([make(2)])) == [True]
    assert remote.inbox.recent() == ()
    answers.set()
    assert late.hand_over() == 2
    assert sorted(event.event_id for event in remote.inbox.recent()) == ["event-0001", "event-0002"]


def test_what_nobody_thought_of_is_raised(tmp_path: Path) -> None:
    def accept(_: Sequence[RepositoryEvent]) -> Sequence[bool]:
        raise RuntimeError("a bug")

    late = LateEvents(tmp_path / "late", accept)
    with pytest.raises(RuntimeError):
        late.accept([make(1)])
    assert not late.is_waiting()
