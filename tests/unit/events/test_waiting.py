"""What of the inbox is shown and dropped, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from maestro_dagster.database.interface import Database
from maestro_dagster.database.postgres import PostgresDatabase
from maestro_dagster.database.sqlite import SqliteDatabase
from maestro_dagster.errors import EventError
from maestro_dagster.events.inbox import TABLES, WORDING, Inbox
from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.events.waiting import count_states, drop_events, list_entries, list_waiting


@pytest.fixture(params=["sqlite", "postgres"])
def inbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Inbox]:
    found: Database = SqliteDatabase(tmp_path / "inbox.sqlite", tables=TABLES, wording=WORDING)
    if request.param == "postgres":
        found = PostgresDatabase(request.getfixturevalue("postgres_server"), "inbox", wording=WORDING)
        with found.write() as connection:
            connection.execute("DELETE FROM event")
    made = Inbox(tmp_path / "inbox", found)
    yield made
    made.close()


def tell(inbox: Inbox, *numbers: int, name: str = "shop") -> list[str]:
    events = [
        RepositoryEvent(
            *(
                f"webhook-{number:04d}",
                "/srv/shop.git",
                "a" * 40,
                "b" * 40,
                "refs/heads/main",
                1.0,
                "webhook",
            ),
            name=name,
            facts={"title": "ä"},
        )
        for number in numbers
    ]
    inbox.accept(events)
    return [event.event_id for event in events]


def test_events_are_listed_by_state_and_repository(inbox: Inbox) -> None:
    one, two, three = tell(inbox, 1, 2, 3)
    (other,) = tell(inbox, 4, name="other")
    inbox.mark_requested(two, ["r1", "r2"])
    drop_events(inbox.database, [three], "ada", 5.0)
    assert count_states(inbox.database) == {"waiting": 2, "requested": 1, "dropped": 1}
    assert [entry.event.event_id for entry in list_entries(inbox.database)] == [other, three, two, one]
    assert [entry.event.event_id for entry in list_entries(inbox.database, limit=1)] == [other]
    (entry,) = list_entries(inbox.database, "requested")
    assert (entry.state, entry.run_ids) == ("requested", ("r1", "r2"))
    (entry,) = list_entries(inbox.database, "waiting", "shop")
    assert (entry.event.event_id, entry.state) == (one, "waiting")
    assert (list_waiting(inbox.database), list_waiting(inbox.database, "other")) == ([one, other], [other])


def test_what_was_dropped_stays_with_who_did_it(inbox: Inbox) -> None:
    one, two = tell(inbox, 1, 2)
    drop_events(inbox.database, [one], "ada", 5.0)
    (entry,) = list_entries(inbox.database, "dropped")
    assert entry.event.facts == {"title": "ä", "dropped": {"by": "ada", "at": 5.0}}
    assert [event.event_id for event in inbox.pending()] == [two]
    assert inbox.accept([entry.event]) == (False,)


def test_all_are_dropped_or_none(inbox: Inbox) -> None:
    one, two = tell(inbox, 1, 2)
    inbox.mark_requested(two, [])
    for wrong in (two, "webhook-none"):
        with pytest.raises(EventError) as caught:
            drop_events(inbox.database, [one, wrong], "ada", 5.0)
        assert caught.value.error_code == "event-unknown"
    assert list_waiting(inbox.database) == [one]
