from __future__ import annotations

import importlib.util
import re
import sqlite3
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.lake import open_lake
from maestro_dagster.costs.spool import Spool
from maestro_dagster.costs.subject import SubjectMap, fold_identifier
from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.errors import CostError, MaestroError
from maestro_dagster.evidence.verify import verify_bundle
from maestro_dagster.manifest.model import Flow
from maestro_dagster.project.removal import forget_person, open_removals, open_subjects, verify_removals
from maestro_dagster.project.root import find_project
from maestro_dagster.project.runtime import open_runtime
from maestro_dagster.project.scaffold import init_project

ADA = "Ada Lovelace <Ada@Example.org>"
NOW = "2026-03-01T00:00:00Z"


@pytest.fixture
def subjects(tmp_path: Path) -> SubjectMap:
    return SubjectMap(tmp_path / "subjects.sqlite", tmp_path / "keys" / "subjects.key")


def raw(subjects: SubjectMap) -> bytes:
    """All that lies on the disk beside each other: the file, its log, its index."""
    return b"".join(path.read_bytes() for path in sorted(subjects.path.parent.glob("subjects.sqlite*")))


def test_a_person_has_one_surrogate_a_tenant_that_follows_from_nothing(tmp_path: Path) -> None:
    maps = [SubjectMap(tmp_path / name / "s.sqlite", tmp_path / name / "key") for name in "ab"]
    found = [each.surrogate_for(tenant, ADA) for each in maps for tenant in ("one", "two")]
    assert len(set(found)) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in found)
    assert maps[0].surrogate_for("one", " ADA@example.org ") == found[0]
    assert maps[0].surrogate_for("one", "") == ""
    assert maps[0].reveal(found[0]) == "ada@example.org"
    assert set(maps[0].find("ada@example.org")) == {("one", found[0]), ("two", found[1])}
    assert maps[0].find("ada@example.org", "two") == (("two", found[1]),)
    assert maps[0].find("bob") == maps[0].find("") == ()


def test_neither_file_alone_tells_who_it_is(subjects: SubjectMap, tmp_path: Path) -> None:
    surrogate = subjects.surrogate_for("one", ADA)
    data = raw(subjects)
    assert b"ada" not in data.lower()
    assert surrogate.encode() in data
    assert {path.stat().st_mode & 0o777 for path in (subjects.path, subjects.secret)} == {0o600}
    stranger = SubjectMap(subjects.path, tmp_path / "other.key")
    stranger.secret.write_bytes(bytes(32))
    assert stranger.find(ADA) == ()
    with pytest.raises(CostError, match="does not belong to its secret"):
        stranger.reveal(surrogate)


def test_forgetting_leaves_no_trace_in_the_files(subjects: SubjectMap) -> None:
    for number in range(50):
        subjects.surrogate_for("one", f"person-{number}@example.org")
    surrogate = subjects.surrogate_for("one", ADA)
    with sqlite3.connect(subjects.path) as connection:
        row = connection.execute(
            "SELECT lookup, wrapped, sealed FROM subject WHERE surrogate = ?", (surrogate,)
        ).fetchone()
    connection.close()
    assert all(part in raw(subjects) for part in row)
    (gone,) = subjects.forget([surrogate], "case 1", NOW)
    assert (gone.surrogate, gone.tenant, gone.reason) == (surrogate, "one", "case 1")
    assert not any(part in raw(subjects) for part in row)
    assert (subjects.find(ADA), subjects.reveal(surrogate), subjects.count()) == ((), None, 50)
    assert subjects.forget([surrogate], "case 1", NOW) == ()
    assert [one.surrogate for one in subjects.waiting()] == [surrogate]
    subjects.settle([surrogate])
    assert subjects.waiting() == ()
    assert subjects.surrogate_for("one", ADA) != surrogate


def test_a_reader_that_holds_old_pages_is_said(subjects: SubjectMap, monkeypatch: pytest.MonkeyPatch) -> None:
    surrogate = subjects.surrogate_for("one", ADA)
    monkeypatch.setattr("maestro_dagster.costs.subject._WAIT", 0.1)
    reader = sqlite3.connect(subjects.path, isolation_level=None)
    try:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM subject").fetchall()
        with pytest.raises(CostError) as caught:
            subjects.forget([surrogate], "case", NOW)
        assert caught.value.error_code == "subject-busy"
    finally:
        reader.close()
    subjects.forget([], "case", NOW)
    assert subjects.reveal(surrogate) is None


def test_many_at_once_agree_on_a_surrogate(subjects: SubjectMap) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(subjects.surrogate_for("one", ADA))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_lost_secret_makes_nobody_anew(subjects: SubjectMap) -> None:
    subjects.surrogate_for("one", ADA)
    subjects.secret.unlink()
    for call in (lambda: subjects.surrogate_for("one", ADA), lambda: subjects.find(ADA)):
        with pytest.raises(CostError) as caught:
            call()
        assert caught.value.error_code == "subject-secret-missing"
    subjects.secret.write_bytes(b"short")
    with pytest.raises(CostError, match="has 5 bytes"):
        subjects.find(ADA)
    subjects.path.write_bytes(b"no database" * 100)
    with pytest.raises(CostError) as caught:
        subjects.count()
    assert caught.value.error_code == "subject-map"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(ADA, "ada@example.org"), ("  Bob ", "bob"), ("<>", "<>"), ("", ""), ("A\u0308da", "äda")],
)
def test_identifiers_have_one_spelling(given: str, wanted: str) -> None:
    assert fold_identifier(given) == wanted


def run_as(root: Path, run_id: str, actor: str) -> Path:
    runtime = open_runtime(find_project(root))
    flow = Flow.model_validate({
        "name": "notes", "version": "1.0.0",
        "tasks": [{"id": "text", "uses": "pkg:text/template@1.0.0", "with": {"template": "hello"}}],
    })  # fmt: skip
    from maestro_dagster.workers.execute import execute_run

    runtime.engine.request(RunRequest(run_id=run_id, flow=flow, actor=actor))
    view = execute_run(runtime, run_id)
    assert view.status == "succeeded", view.error
    assert view.evidence is not None
    return Path(view.evidence)


def test_a_person_is_forgotten_and_the_evidence_of_their_run_still_verifies(tmp_path: Path) -> None:
    root = init_project(tmp_path / "shop").root
    project = find_project(root)
    bundle = run_as(root, "run-of-ada", ADA)
    run_as(root, "run-of-bob", "bob")
    lake = open_lake(project.lake)
    (day,) = Spool(project.spool).days()
    compact_day(Spool(project.spool), lake, day, lambda _: True)
    events = lake.read_events()
    who = {event.run_id: event.subject for event in events}
    subjects = open_subjects(project)
    assert subjects.reveal(who["run-of-ada"]) == "ada@example.org"
    files = {
        path: sha256(path.read_bytes()).hexdigest()
        for path in Path(project.lake).rglob("*")
        if path.is_file()
    }
    pem = (project.keys / "maestro.pub.pem").read_bytes()
    before = verify_bundle(bundle, [pem])

    report = forget_person(project, "ada@example.org", "request 17")
    assert [one["surrogate"] for one in report.forgotten] == [who["run-of-ada"]]
    assert subjects.reveal(who["run-of-ada"]) is None
    assert subjects.reveal(who["run-of-bob"]) == "bob"
    assert lake.read_events() == events
    assert {path: sha256(path.read_bytes()).hexdigest() for path in files} == files
    after = verify_bundle(bundle, [pem])
    assert before.ok
    assert after.to_json() == before.to_json()
    checked = verify_removals(project)
    assert (checked["lines"], checked["forgotten"], checked["newest"]) == (1, 1, report.forgotten[0]["proof"])
    assert forget_person(project, ADA, "request 17").forgotten == ()


def test_a_backup_brings_nobody_back_and_a_proof_is_never_lost(tmp_path: Path, monkeypatch: Any) -> None:
    project = find_project(init_project(tmp_path / "shop").root)
    subjects = open_subjects(project)
    surrogate = subjects.surrogate_for("default", ADA)
    backup = project.home / "backup.sqlite"
    with sqlite3.connect(subjects.path) as connection, sqlite3.connect(backup) as copy:
        connection.backup(copy)
    connection.close()
    copy.close()
    with monkeypatch.context() as patch:
        patch.setattr("maestro_dagster.costs.proof.ProofJournal.append", _fail)
        with pytest.raises(OSError, match="no power"):
            forget_person(project, ADA, "request 1")
    assert subjects.reveal(surrogate) is None
    report = forget_person(project, "somebody else", "request 2")
    assert [one["surrogate"] for one in report.forgotten] == [surrogate]
    for path in project.home.glob("subjects.sqlite*"):
        path.unlink()
    backup.rename(subjects.path)
    assert subjects.reveal(surrogate) == "ada@example.org"
    again = forget_person(project, "somebody else", "request 3")
    assert again.restored == (surrogate,)
    assert subjects.reveal(surrogate) is None
    assert len(list(open_removals(project).read())) == 2


def test_the_reason_must_not_name_the_person_and_nothing_is_destroyed_without_a_key(tmp_path: Path) -> None:
    project = find_project(init_project(tmp_path / "shop").root)
    subjects = open_subjects(project)
    surrogate = subjects.surrogate_for("default", ADA)
    with pytest.raises(MaestroError) as caught:
        forget_person(project, ADA, "Asked for by ADA@example.org")
    assert caught.value.error_code == "reason-personal"
    (project.keys / "maestro.pem").unlink()
    with pytest.raises(MaestroError) as caught:
        forget_person(project, ADA, "request 17")
    assert caught.value.error_code == "key-missing"
    assert subjects.reveal(surrogate) == "ada@example.org"


def test_the_bench_measures_both_sides(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAESTRO_BENCH_ROWS", "2000")
    monkeypatch.syspath_prepend(str(repository / "bench"))
    spec = importlib.util.spec_from_file_location("bench_forget", repository / "bench/forget.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for side in ("destroy", "rewrite"):  # each checks that the person is gone and the sum is not
        folder = tmp_path / side
        folder.mkdir()
        assert getattr(module, side)(folder)["value"] > 0


def _fail(*_: Any, **__: Any) -> None:
    raise OSError("no power")
