"""The inbox: nothing lost, nothing twice, whatever is dropped into it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.database.interface import Database
from maestro_dagster.database.postgres import PostgresDatabase
from maestro_dagster.errors import EventError
from maestro_dagster.events.inbox import WORDING, Inbox
from maestro_dagster.events.interface import MAX_FACTS, RepositoryEvent, run_id_for

Drop = Callable[..., Path]


@pytest.fixture(params=["sqlite", "postgres"])
def inbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Inbox]:
    """Everything holds on both databases."""
    database: Path | Database = tmp_path / "home" / "inbox.sqlite"
    if request.param == "postgres":
        database = PostgresDatabase(request.getfixturevalue("postgres_server"), "inbox", wording=WORDING)
        with database.write() as connection:
            connection.execute("DELETE FROM event")
    found = Inbox(tmp_path / "home" / "inbox", database)
    yield found
    found.close()


@pytest.fixture
def drop(inbox: Inbox) -> Drop:
    """Writes one drop; `order` numbers the files in time."""

    def write(number: int = 0, **fields: Any) -> Path:
        event = {
            "event_id": f"00000000-0000-4000-8000-{number:012d}",
            "repository": "/srv/shop.git",
            "name": "shop",
            "before": "a" * 40,
            "after": "b" * 40,
            "ref": "refs/heads/main",
            "order": 1,
            **fields,
        }
        path = inbox.folder / "new" / f"{event['event_id']}.json"
        path.write_text(json.dumps(event))
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
        return path

    return write


def test_events_come_in_order_and_once(inbox: Inbox, drop: Drop) -> None:
    for number in (3, 1, 2):
        drop(number)
    assert [event.received_at for event in inbox.ingest()] == [1_700_000_001, 1_700_000_002, 1_700_000_003]
    assert inbox.ingest() == ()
    drop(2)
    assert inbox.ingest() == ()
    assert len(inbox.pending()) == 3
    assert list((inbox.folder / "new").iterdir()) == []


def test_a_request_takes_an_event_off_the_list(inbox: Inbox, drop: Drop) -> None:
    drop(1)
    drop(2)
    first, second = inbox.ingest()
    inbox.mark_requested(first.event_id, ["r1", "r2"])
    assert inbox.pending() == (second,)
    assert inbox.run_ids(first.event_id) == ("r1", "r2")
    inbox.mark_all_requested({second.event_id: []})
    assert inbox.pending() == ()
    assert [event.event_id for event in inbox.recent()] == [second.event_id, first.event_id]


def test_another_process_sees_what_was_taken(inbox: Inbox, drop: Drop) -> None:
    drop(1)
    inbox.ingest()
    again = Inbox(inbox.folder, inbox.database)
    assert again.pending() == inbox.pending()
    again.close()


def test_a_crash_between_row_and_unlink(inbox: Inbox, drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    path = drop(1)
    with monkeypatch.context() as patch:

        def die(_self: Path) -> None:
            raise KeyboardInterrupt

        patch.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            inbox.ingest()
    assert path.exists()
    again = Inbox(inbox.folder, inbox.database)
    assert again.ingest() == ()
    assert len(again.pending()) == 1
    assert not path.exists()
    again.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 60_000,
        b"x" * 70_000,
        b'{"event_id": "short"}',
    ],
)
def test_what_cannot_be_read_is_set_aside_with_the_reason(inbox: Inbox, drop: Drop, content: bytes) -> None:
    drop(1)
    (inbox.folder / "new" / "bad.json").write_bytes(content)
    assert len(inbox.ingest()) == 1
    assert (inbox.folder / "bad" / "bad.json").read_bytes() == content
    assert "malformed" in (inbox.folder / "bad" / "bad.json.reason").read_text()
    (inbox.folder / "new" / "bad.json").write_bytes(content)
    inbox.ingest()
    assert len(list((inbox.folder / "bad").iterdir())) == 4


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("x")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        # A socket's path is short (unix(7)), so it is bound elsewhere and moved.
        short = Path(tempfile.mkdtemp()) / "s"
        made.bind(str(short))
        shutil.move(short, path)


def make_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 10 * 1024**4)


STRANGE: dict[str, Callable[[Path], None]] = {
    "folder": make_folder,
    "pipe": os.mkfifo,
    "dangling": lambda path: path.symlink_to("/nowhere/at/all"),
    "itself": lambda path: path.symlink_to(path.name),
    "link": lambda path: path.symlink_to(__file__),
    "socket": make_socket,
    "huge": make_huge,
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.timeout(20)
def test_what_is_no_file_is_set_aside_and_the_rest_goes_on(inbox: Inbox, drop: Drop, kind: str) -> None:
    drop(1)
    for again in range(2):
        STRANGE[kind](inbox.folder / "new" / "odd.json")
        assert len(inbox.ingest()) == 1 - again
    assert list((inbox.folder / "new").iterdir()) == []
    bad = sorted((inbox.folder / "bad").iterdir())
    assert len([path for path in bad if path.suffix == ".reason"]) == 2, "the second takes no other's place"
    assert len(bad) == 4
    assert "malformed" in (inbox.folder / "bad" / "odd.json.reason").read_text()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_an_error_on_one_drop_does_not_stop_the_others(
    inbox: Inbox, drop: Drop, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    bad = drop(1)
    drop(2)
    real = os.open

    def refuse(path: Any, *rest: Any, **named: Any) -> int:
        if str(path) == str(bad):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert len(inbox.ingest()) == 1
    if number == errno.EACCES:
        assert (inbox.folder / "bad" / bad.name).exists()
    else:
        assert len(inbox.ingest()) == 1, "a disk's bad moment loses no push"


def test_a_drop_that_cannot_be_moved_does_not_stop_the_others(inbox: Inbox, drop: Drop) -> None:
    shutil.rmtree(inbox.folder / "bad")
    (inbox.folder / "bad").write_text("no folder")
    (inbox.folder / "new" / "bad.json").write_bytes(b"{")
    drop(1)
    assert len(inbox.ingest()) == 1


@pytest.mark.parametrize("name", [b"\xff.json", b"n" * 255])
def test_names_that_are_hard_to_write_down(inbox: Inbox, drop: Drop, name: bytes) -> None:
    drop(1)
    with open(os.fsencode(inbox.folder / "new") + b"/" + name, "wb") as file:  # noqa: PTH123 - bytes
        file.write(b"{")
    assert len(inbox.ingest()) == 1
    assert len(list((inbox.folder / "bad").glob("*.reason"))) == 1


def test_odd_things_among_torn_drops(inbox: Inbox, drop: Drop) -> None:
    torn = drop(1)
    torn.rename(inbox.folder / "tmp" / torn.name)
    for name in ("a", "z"):
        (inbox.folder / "tmp" / name).symlink_to("/nowhere/at/all")
    again = Inbox(inbox.folder, inbox.database)
    assert len(again.ingest()) == 1
    again.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"event_id": "../../etc/passwd"},
        {"event_id": 1},
        {"after": "xyz"},
        {"after": "B" * 40},
        {"before": ""},
        {"ref": "main"},
        {"ref": "refs/heads/a\nb"},
        {"ref": "refs/heads/\ud800"},
        {"repository": None},
        {"repository": "/srv/\ud800"},
        {"repository": "/srv/\0"},
        {"name": "\udce9"},
    ],
)
def test_fields_that_are_none(inbox: Inbox, drop: Drop, fields: dict[str, Any]) -> None:
    path = drop(1)
    event = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps(event))
    assert inbox.ingest() == ()
    assert len(list((inbox.folder / "bad").glob("*.reason"))) == 1


def test_sha256_repositories(inbox: Inbox, drop: Drop) -> None:
    drop(1, before="0" * 64, after="c" * 64)
    assert inbox.ingest()[0].created


def test_a_torn_drop_is_found_when_its_hook_is_gone(inbox: Inbox, drop: Drop) -> None:
    whole, half = drop(1), drop(2)
    half.write_text(half.read_text()[:20])
    os.utime(half, (1, 1))
    for path in (whole, half):
        path.rename(inbox.folder / "tmp" / path.name)
    fresh = inbox.folder / "tmp" / "fresh.json"
    fresh.write_text("{")
    again = Inbox(inbox.folder, inbox.database)
    assert len(again.ingest()) == 1
    assert fresh.exists()  # its hook may still be writing
    assert len(list((inbox.folder / "bad").glob("*.reason"))) == 1
    again.close()


def test_many_drops_at_once(inbox: Inbox, drop: Drop) -> None:
    many = 10_000 if os.environ.get("MAESTRO_SOAK") == "1" else 2_500
    text = drop(0).read_text()
    for number in range(1, many):
        name = f"00000000-0000-4000-8000-{number:012d}"
        (inbox.folder / "new" / f"{name}.json").write_text(text.replace("000000000000", f"{number:012d}"))
    start = time.process_time()
    assert len(inbox.ingest()) == many
    assert time.process_time() - start < 10
    assert len(inbox.pending(20_000)) == many


def test_an_idle_pass_costs_nothing(inbox: Inbox) -> None:
    inbox.ingest()
    start = time.process_time()
    for _ in range(100):
        inbox.ingest()
        inbox.pending()
    assert (time.process_time() - start) / 100 < 0.005  # the limit is 20 ms; it takes 0.04


def test_a_broken_database_is_a_coded_error(tmp_path: Path) -> None:
    database = tmp_path / "inbox.sqlite"
    database.write_bytes(b"no database at all, but long enough to be read as one" * 10)
    with pytest.raises(EventError) as caught:
        Inbox(tmp_path / "inbox", database)
    assert caught.value.error_code == "inbox-unusable"


def test_a_folder_that_vanishes_is_a_coded_error(inbox: Inbox) -> None:
    (inbox.folder / "new").rmdir()
    with pytest.raises(EventError) as caught:
        inbox.ingest()
    assert caught.value.error_code == "inbox-unusable"


def test_a_failed_transaction_leaves_nothing(inbox: Inbox) -> None:
    event = RepositoryEvent("e" * 12, "/r", "a" * 40, "b" * 40, "refs/heads/main", 1.0)

    def fail() -> None:
        with inbox.database.write() as connection:
            inbox.insert(connection, [event])
            raise inbox.database.failure("database or disk is full")

    with pytest.raises(EventError):
        fail()
    assert inbox.pending() == ()
    with inbox.database.write() as connection:
        assert inbox.insert(connection, [event]) == (event,)
        assert inbox.insert(connection, [event]) == ()


def make_event(number: int, **fields: Any) -> RepositoryEvent:
    known = {
        "event_id": f"webhook-{number:08d}",
        "repository": "https://forge.example/acme/shop.git",
        "before": "a" * 40,
        "after": "b" * 40,
        "ref": "refs/heads/main",
        "received_at": float(number),
        "source": "webhook",
        "name": "shop",
    }
    return RepositoryEvent(**{**known, **fields})


def test_webhooks_are_accepted_once_with_what_they_told(inbox: Inbox) -> None:
    first = make_event(1, kind="pr", facts={"number": 7, "labels": ["ä", "b"], "changed_paths": None})
    second = make_event(2, ref="refs/tags/v1")
    assert inbox.accept([first, second, first]) == (True, True, False)
    assert inbox.accept([second, make_event(3)]) == (False, True)
    assert inbox.accept([]) == ()
    again = Inbox(inbox.folder, inbox.database)
    assert again.pending() == (first, second, make_event(3))
    assert [event.kind for event in again.pending()] == ["pr", "tag", "push"]
    again.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"event_id": "x"},
        {"kind": "dance"},
        {"after": "main"},
        {"ref": "refs/heads/a\0b"},
        {"ref": "main"},
        {"repository": ""},
        {"name": "a\nb"},
        {"facts": {"title": object()}},
        {"facts": {"title": "\ud800"}},
        {"facts": {"number": float("nan")}},
        {"facts": {"title": "x" * MAX_FACTS}},
    ],
)
def test_one_malformed_event_and_none_is_taken(inbox: Inbox, fields: dict[str, Any]) -> None:
    with pytest.raises(EventError) as caught:
        inbox.accept([make_event(1), make_event(2, **fields)])
    assert caught.value.error_code == "event-malformed"
    assert inbox.pending() == ()


def test_an_inbox_of_an_earlier_release_is_read_on(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "inbox.sqlite") as old:
        old.execute(
            "CREATE TABLE event (sequence INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE,"
            " repository TEXT NOT NULL, name TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL,"
            " ref TEXT NOT NULL, received_at REAL NOT NULL, source TEXT NOT NULL, state TEXT NOT NULL,"
            " run_ids TEXT NOT NULL DEFAULT '[]')"
        )
        old.execute(
            "INSERT INTO event VALUES (1, 'event-01', '/r', 'r', ?, ?, 'refs/tags/v1', 1.0, 'hook',"
            " 'pending', '[]')",
            ("a" * 40, "b" * 40),
        )
    old.close()
    for _ in range(2):
        inbox = Inbox(tmp_path / "inbox", tmp_path / "inbox.sqlite")
        (event,) = inbox.pending()
        assert (event.kind, event.facts) == ("tag", {})
        inbox.close()


def test_run_ids_are_fixed_and_fit_into_paths() -> None:
    first = run_id_for("event", "flow")
    assert first == run_id_for("event", "flow") == "r" + first[1:]
    assert len(first) == 26
    assert first.isalnum()
    assert first == first.lower()
    ids = {run_id_for(f"event-{number}", flow) for number in range(500) for flow in ("a", "b")}
    assert len(ids) == 1000
