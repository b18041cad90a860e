"""A backup holds all of a project and lets nothing through that is not as it was."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.artifacts.store import open_store
from maestro_dagster.errors import MaestroError, ProjectError
from maestro_dagster.evidence.key import make_key
from maestro_dagster.evidence.verify import verify_bundle
from maestro_dagster.project.backup import back_up
from maestro_dagster.project.backup_source import LocalSource, store_settled
from maestro_dagster.project.backup_statement import SUFFIX, Manifest, sign_manifest
from maestro_dagster.project.backup_target import open_statements
from maestro_dagster.project.restore import restore
from maestro_dagster.project.root import Project, open_project
from maestro_dagster.project.seal import open_sealed, seal_files
from maestro_dagster.project.services import open_services

PASSPHRASE = "correct horse battery staple"
RUNS = 2


def run_hello(project: Project, run_id: str) -> str:
    """As a worker does it, in this process."""
    from maestro_dagster.engine.engine import Engine
    from maestro_dagster.engine.interface import RunRequest
    from maestro_dagster.manifest.read import read_flow
    from maestro_dagster.steps.catalogue import load_catalogue

    engine = Engine(open_services(project))
    try:
        flow = read_flow(project.find_flow("hello"), load_catalogue())
        engine.request(RunRequest(run_id, flow))
        engine.admit(run_id)
        list(engine.stream_segment(run_id, tuple(task.id for task in flow.tasks)))
        engine.close(run_id)
        return str(engine.view(run_id).status)
    finally:
        engine.services.policy.close()
        engine.services.journal.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with runs, usage in the spool and in the lake, and a secret. Nobody writes to it."""
    from maestro_dagster.project.compaction import compact_project_days, list_waiting_days
    from maestro_dagster.project.scaffold import init_project

    root = tmp_path_factory.mktemp("made") / "shop"
    init_project(root)
    project = open_project(root, {})
    for number in range(RUNS):
        assert run_hello(project, f"r{number}") == "succeeded"
    assert list(compact_project_days(project, list_waiting_days(project)))
    run_hello(project, f"r{RUNS}")
    secrets = root / ".maestro" / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "token").write_text("hunter2-hunter2")
    (secrets / "token").chmod(0o600)
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Project:
    shutil.copytree(made, tmp_path / "shop", symlinks=True)
    return open_project(tmp_path / "shop", {})


@pytest.fixture
def target(tmp_path: Path) -> str:
    return str(tmp_path / "backups")


@pytest.fixture
def key(made: Path) -> Path:
    return made / ".maestro" / "keys" / "maestro.pub.pem"


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(MaestroError) as caught:
        call()
    return caught.value.error_code


def lose(project: Project) -> Path:
    """The state folder is gone; gives where it went."""
    return project.home.rename(project.root / "lost")


def tables(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        if path.name == "journal.sqlite":  # it says where the bundles lie now
            connection.execute("UPDATE run SET evidence_path = ''")
        return list(connection.iterdump())


def task_ids(project: Project) -> list[str]:
    from maestro_dagster.manifest.read import read_flow

    return [task.id for task in read_flow(project.find_flow("hello")).tasks]


def content(folder: Path) -> dict[str, bytes]:
    skip = (".lock", "-lock", "-wal", "-shm", ".sqlite", ".db")
    apart = ("run", "scratch", "cache")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(skip) and path.relative_to(folder).parts[0] not in apart
    }


def test_everything_comes_back(project: Project, target: str) -> None:
    report = back_up(project, target, passphrase=PASSPHRASE)
    assert (report.runs, report.bundles, report.left_out, report.damaged) == (RUNS + 1, RUNS + 1, (), ())
    lost = lose(project)
    done = restore(project, target, passphrase=PASSPHRASE)
    assert (done.receipts, done.open_runs, done.files, done.written) == (RUNS + 1, 0, report.files, True)
    assert done.claims == len(task_ids(project)) * (RUNS + 1)
    assert content(project.home) == content(lost)
    for database in sorted(path.relative_to(lost) for path in lost.rglob("*.sqlite")):
        assert tables(project.home / database) == tables(lost / database), database
    assert (project.home / "secrets" / "token").stat().st_mode & 0o777 == 0o600
    assert (project.keys / "maestro.pem").stat().st_mode & 0o777 == 0o600
    assert run_hello(project, "later") == "succeeded"
    assert [path.name for path in project.root.iterdir() if path.name.startswith(".maestro")] == [".maestro"]


@pytest.mark.parametrize("mode", [None, 0o750])
def test_a_restored_state_folder_is_as_closed_as_before(
    project: Project, target: str, mode: int | None
) -> None:
    assert project.home.stat().st_mode & 0o777 == 0o700
    back_up(project, target, passphrase=PASSPHRASE)
    lose(project)
    if mode is not None:  # made by the operator beforehand
        project.home.mkdir()
        project.home.chmod(mode)
    restore(project, target, passphrase=PASSPHRASE)
    assert project.home.stat().st_mode & 0o777 == (mode or 0o700)


@pytest.mark.parametrize("kind", ["new", "late"])
def test_an_event_that_gets_into_the_inbox_meanwhile_is_not_missed(
    project: Project, target: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maestro_dagster.events.interface import RepositoryEvent
    from maestro_dagster.events.late import LateEvents
    from maestro_dagster.project.intake import open_inbox
    from maestro_dagster.project.snapshot import copy_database

    event = RepositoryEvent("event-0001", "/srv/shop.git", "0" * 40, "a" * 40, "refs/heads/main", 1.0)

    def refuse(_: object) -> list[bool]:
        raise ProjectError("the inbox is away")

    with closing(open_inbox(project)) as inbox:
        if kind == "new":
            (project.inbox / "new" / "one.json").write_text(json.dumps(event.to_json()))
        else:
            LateEvents(project.inbox / "late", refuse).accept([event])
        late = LateEvents(project.inbox / "late", inbox.accept)

        def copy_slowly(*given: Any) -> None:
            inbox.ingest()
            late.hand_over()
            copy_database(*given)

        monkeypatch.setattr("maestro_dagster.project.backup.copy_database", copy_slowly)
        back_up(project, target, passphrase=PASSPHRASE)
        assert [each.event_id for each in inbox.recent()] == ["event-0001"]
        assert not any((project.inbox / kind).iterdir())
    lose(project)
    restore(project, target, passphrase=PASSPHRASE)
    with closing(open_inbox(project)) as inbox:
        inbox.ingest()
        LateEvents(project.inbox / "late", inbox.accept).hand_over()
        assert [each.event_id for each in inbox.recent()] == ["event-0001"]


def test_a_second_backup_stores_only_what_is_new(project: Project, target: str) -> None:
    first, second = back_up(project, target), back_up(project, target)
    assert first.new_bytes > 100_000
    assert (second.new_bytes, second.files) == (0, first.files)
    assert open_statements(target).ids() == [first.id, second.id]
    assert restore(project, target, backup=first.id, check=True).backup == first.id
    assert restore(project, target, check=True).backup == second.id
    assert code_of(lambda: restore(project, target, backup="20010101T000000000Z-000000")) == "backup-missing"
    assert code_of(lambda: restore(project, f"{target}/none", check=True)) == "backup-missing"


def test_secrets_are_sealed_or_not_there(project: Project, target: str, key: Path) -> None:
    private = (project.keys / "maestro.pem").read_bytes()
    back_up(project, target, passphrase=PASSPHRASE)
    report = back_up(project, target)
    assert report.left_out == ("keys", "secrets")
    for path in Path(target).rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"hunter2" not in data
            assert private.splitlines()[1] not in data
    lose(project)
    assert code_of(lambda: restore(project, target)) == "key-missing"
    assert not project.home.exists()
    restore(project, target, keys=[key])
    assert sorted(path.name for path in project.keys.iterdir()) == ["maestro.pub.pem"]
    assert not (project.home / "secrets").exists()


def test_a_wrong_or_short_passphrase_is_refused(project: Project, target: str) -> None:
    assert code_of(lambda: back_up(project, target, passphrase="short")) == "passphrase-short"
    assert not Path(target).exists()
    back_up(project, target, passphrase=PASSPHRASE)
    lose(project)
    assert code_of(lambda: restore(project, target, passphrase=PASSPHRASE + "!")) == "passphrase-wrong"
    sealed = seal_files({"keys/a": b"\x00\xff"}, PASSPHRASE)
    assert open_sealed(sealed, PASSPHRASE) == {"keys/a": b"\x00\xff"}
    cheap = sealed.replace(b'"n":131072', b'"n":2')
    assert code_of(lambda: open_sealed(cheap, PASSPHRASE)) == "seal-invalid"
    assert code_of(lambda: open_sealed(sealed[:-2], PASSPHRASE)) == "seal-invalid"


@pytest.mark.parametrize("part", ["home", "artifacts", "evidence", "lake"])
@pytest.mark.parametrize("harm", ["flip", "cut", "lose"])
def test_a_damaged_file_is_refused_and_nothing_is_restored(
    project: Project, target: str, key: Path, part: str, harm: str
) -> None:
    back_up(project, target)
    entry = newest(target).part(part)[0]  # type: ignore[arg-type]
    path = Path(target, "sha256", entry.digest[7:9], entry.digest[7:])
    data = path.read_bytes()
    path.chmod(0o644)
    if harm == "lose":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if harm == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    expected = "artifact-missing" if harm == "lose" else "artifact-corrupt"
    assert code_of(lambda: restore(project, target, check=True)) == expected
    lose(project)
    assert code_of(lambda: restore(project, target, keys=[key])) == expected
    assert not project.home.exists()
    assert [path.name for path in project.root.iterdir() if path.name.startswith(".maestro")] == []


def newest(target: str) -> Manifest:
    from maestro_dagster.evidence.dsse import read_envelope
    from maestro_dagster.project.backup_statement import read_manifest, read_predicate

    statements = open_statements(target)
    about = read_predicate(read_envelope(statements.read(statements.ids()[-1])).payload)
    return read_manifest(open_store(target).read(about["manifest"]), about)


def test_what_a_stranger_signed_is_refused(project: Project, target: str, tmp_path: Path) -> None:
    from maestro_dagster.evidence.key import load_signer

    report = back_up(project, target)
    make_key(tmp_path / "strange")
    path = Path(target, "backups", report.id + SUFFIX)
    path.write_bytes(sign_manifest(newest(target), load_signer(tmp_path / "strange")))
    assert code_of(lambda: restore(project, target, check=True)) == "signer-unknown"


def test_a_changed_statement_is_refused(project: Project, target: str) -> None:
    report = back_up(project, target)
    path = Path(target, "backups", report.id + SUFFIX)
    data = json.loads(path.read_bytes())
    data["dsseEnvelope"]["signatures"][0]["sig"] = "AAAA" + data["dsseEnvelope"]["signatures"][0]["sig"][4:]
    path.write_bytes(json.dumps(data, sort_keys=True, separators=(",", ":")).encode())
    assert code_of(lambda: restore(project, target, check=True)) == "signature-invalid"
    path.write_bytes(b"{}")
    assert code_of(lambda: restore(project, target, check=True)) == "envelope-invalid"


def resign(project: Project, target: str, change: Callable[[dict[str, Any]], None]) -> None:
    """A backup as only the owner of the key could have made it, and did not."""
    from dataclasses import asdict

    from maestro_dagster.evidence.key import load_signer
    from maestro_dagster.project.backup_statement import Entry

    form = asdict(newest(target))
    change(form)
    entries = tuple(Entry(**entry) for entry in form.pop("entries"))
    manifest = Manifest(entries=entries, **{**form, "left_out": tuple(form["left_out"])})
    open_store(target).put_bytes(manifest.encode(), "application/json")
    path = Path(target, "backups", manifest.id + SUFFIX)
    path.write_bytes(sign_manifest(manifest, load_signer(project.keys)))


def test_a_receipt_that_does_not_verify_stops_the_restore(project: Project, target: str) -> None:
    back_up(project, target)

    def change(form: dict[str, Any]) -> None:
        bundles = [entry for entry in form["entries"] if entry["part"] == "evidence"]
        bundles[0]["digest"], bundles[0]["size"] = bundles[1]["digest"], bundles[1]["size"]

    resign(project, target, change)
    assert code_of(lambda: restore(project, target, check=True)) == "backup-malformed"


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "a//b", ""])
def test_a_manifest_never_leads_out_of_the_folder(project: Project, target: str, path: str) -> None:
    back_up(project, target)
    resign(project, target, lambda form: form["entries"][-1].update(path=path))
    assert code_of(lambda: restore(project, target, check=True)) == "backup-malformed"


def test_nothing_is_restored_over_something(project: Project, target: str, key: Path) -> None:
    back_up(project, target, passphrase=PASSPHRASE)
    assert code_of(lambda: restore(project, target)) == "restore-occupied"
    lost = lose(project)
    shutil.copytree(lost / "keys", project.keys)  # kept apart, and put back first
    restore(project, target, keys=[key])
    assert run_hello(project, "later") == "succeeded"


def test_another_key_in_its_place_is_not_overwritten(project: Project, target: str, key: Path) -> None:
    back_up(project, target, passphrase=PASSPHRASE)
    lose(project)
    make_key(project.keys)
    before = (project.keys / "maestro.pem").read_bytes()
    assert code_of(lambda: restore(project, target, passphrase=PASSPHRASE, keys=[key])) == "restore-occupied"
    assert (project.keys / "maestro.pem").read_bytes() == before
    assert [path.name for path in project.home.iterdir()] == ["keys"]


def test_a_backup_never_lies_in_what_it_is_a_backup_of(project: Project) -> None:
    assert code_of(lambda: back_up(project, str(project.home / "backups"))) == "backup-target"
    (project.keys / "maestro.pem").unlink()
    assert code_of(lambda: back_up(project, str(project.root / "elsewhere"))) == "key-missing"


def test_a_damaged_artifact_is_told_and_the_rest_is_kept(project: Project, target: str) -> None:
    path = next(Path(project.artifact_store).rglob("*/??/*"))
    path.chmod(0o644)
    path.write_bytes(b"rotten")
    report = back_up(project, target)
    assert report.damaged == (f"sha256:{path.name}",)
    assert restore(project, target, check=True).receipts == RUNS + 1


def test_the_home_moves_and_the_journal_follows(
    project: Project, target: str, tmp_path: Path, key: Path
) -> None:
    back_up(project, target)
    moved = open_project(project.root, {"MAESTRO_HOME": str(tmp_path / "new" / "state")})
    restore(moved, target, keys=[key])
    services = open_services(moved)
    try:
        for run in services.journal.runs(10):
            bundle = Path(str(run.evidence_path))
            assert bundle.is_relative_to(tmp_path / "new" / "state")
            assert verify_bundle(bundle, [(moved.keys / "maestro.pub.pem").read_bytes()]).ok
    finally:
        services.policy.close()
        services.journal.close()


def test_a_folder_is_read_until_it_holds_still(tmp_path: Path) -> None:
    """A day is published anew, twice, while it is read: what is kept is one version of it."""
    folder, pool = tmp_path / "lake" / "day=2026-01-01", open_store(tmp_path / "pool")
    folder.mkdir(parents=True)

    def publish(number: int) -> None:
        for old in folder.glob("part-*"):
            old.unlink()
        (folder / f"part-{number}").write_text(str(number))
        (folder / "manifest.json").write_text(f"part-{number}")

    class Busy(LocalSource):
        left = 2

        def store(self, name: str, store: Any) -> Any:
            if name.endswith("manifest.json") and self.left:
                self.left -= 1
                publish(3 - self.left)
            return super().store(name, store)

    publish(1)
    found = store_settled(Busy(tmp_path / "lake"), pool, lambda _: None)
    name = pool.read(found["day=2026-01-01/manifest.json"].digest).decode()
    assert name == "part-3"
    assert pool.read(found[f"day=2026-01-01/{name}"].digest) == b"3"
    assert len(found) == 2


def test_databases_are_copied_as_of_one_moment(project: Project, target: str, key: Path) -> None:
    """Two files, always written in this order: the copy of the second is never ahead by more than one."""
    stop = threading.Event()
    first, second = project.home / "inbox" / "inbox.sqlite", project.home / "zzz.sqlite"
    for path in (first, second):
        path.parent.mkdir(exist_ok=True)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE t (n INTEGER)")

    def write() -> None:
        opened = [sqlite3.connect(path, isolation_level=None) for path in (first, second)]
        number = 0
        while not stop.is_set():
            number += 1
            for connection in opened:
                connection.execute("INSERT INTO t VALUES (?)", (number,))
        for connection in opened:
            connection.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        back_up(project, target)
    finally:
        stop.set()
        thread.join()
    lose(project)
    restore(project, target, keys=[key])
    counts = []
    for path in (first, second):
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) = coalesce(max(n), 0) FROM t").fetchone()[0]
            counts.append(connection.execute("SELECT count(*) FROM t").fetchone()[0])
    assert counts[1] - counts[0] < 200  # pinned within moments, not copied one after the other


def test_out_of_and_into_object_stores(project: Project, s3_bucket: str, key: Path) -> None:
    back_up(project, f"{s3_bucket}/backups")
    away = open_project(
        project.root,
        {
            "MAESTRO_HOME": str(project.root / "state"),
            "MAESTRO_ARTIFACT_STORE": f"{s3_bucket}/artifacts",
            "MAESTRO_EVIDENCE": f"{s3_bucket}/evidence",
            "MAESTRO_LAKE": f"{s3_bucket}/lake",
        },
    )
    done = restore(away, f"{s3_bucket}/backups", keys=[key])
    assert done.receipts == RUNS + 1
    shutil.copytree(project.keys, away.keys, dirs_exist_ok=True)
    again = back_up(away, f"{s3_bucket}/backups")
    assert again.bundles == RUNS + 1
    manifest = newest(f"{s3_bucket}/backups")
    assert {entry.part for entry in manifest.entries} == {"home", "artifacts", "evidence", "lake"}
    before = {entry.path: entry.digest for entry in manifest.part("lake")}
    assert before
    lake = {path: data for path, data in content(Path(project.lake)).items() if not path.startswith(".")}
    assert set(before) == set(lake)
    other = open_project(
        project.root, {"MAESTRO_HOME": str(project.root / "third"), "MAESTRO_LAKE": f"{s3_bucket}/lake"}
    )
    refused = code_of(lambda: restore(other, f"{s3_bucket}/backups", keys=[key]))
    assert refused == "restore-occupied"
