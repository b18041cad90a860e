"""`maestro restore`: a project's state out of a backup, into an empty state folder.

Everything is read, compared with its signed digest and laid into a hidden folder; the receipts of all runs
are verified there. Only then does it take its place, so a restore is done or has not happened; one that is
killed in between is completed by the next.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from maestro_dagster.artifacts.interface import Artifact, ArtifactStore
from maestro_dagster.artifacts.store import open_store
from maestro_dagster.errors import ProjectError, StoreError
from maestro_dagster.evidence.key import load_trusted
from maestro_dagster.evidence.store import EvidenceStore
from maestro_dagster.project.adopt import (
    COLUMNS,
    Believed,
    KnownRun,
    adopt_runs,
    clear_stage,
    find_ended,
    release_budgets,
)
from maestro_dagster.project.backup_object import OLDER, BackupObjects, name_file, of_file
from maestro_dagster.project.backup_source import BINARY, PUBLIC_SUFFIX, SECRET_FOLDERS
from maestro_dagster.project.backup_statement import Entry, Manifest
from maestro_dagster.project.backup_trust import open_backup, verify_receipt
from maestro_dagster.project.dump import Load, finish_tables, is_committed, load_tables, read_columns
from maestro_dagster.project.restore_lake import LakeGoal
from maestro_dagster.project.restore_place import Place, hold_home, remove_leftovers
from maestro_dagster.project.root import Project
from maestro_dagster.project.snapshot import SUFFIXES, check_database
from maestro_dagster.project.unfinished import Mark, unfinished

if TYPE_CHECKING:
    from maestro_dagster.database.interface import Connection

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """`written` is False after a mere check. `open_runs`: runs that had not ended; the loop resumes them.

    `adopted`: runs that ended after the backup, taken over from the evidence that they left. `lost`: runs
    whose evidence was gone already when the backup was made. `unplaced`: older public keys for which a folder
    of keys that can only be read has no place.
    """

    backup: str
    created_at: str
    files: int
    size: int
    receipts: int
    claims: int
    open_runs: int
    adopted: tuple[str, ...]
    left_out: tuple[str, ...]
    written: bool
    lost: tuple[str, ...] = ()
    unplaced: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "backup": self.backup,
            "created_at": self.created_at,
            "files": self.files,
            "bytes": self.size,
            "receipts_verified": self.receipts,
            "claims_verified": self.claims,
            "open_runs": self.open_runs,
            "adopted": list(self.adopted),
            "left_out": list(self.left_out),
            "restored": self.written,
            "lost": list(self.lost),
            "unplaced": list(self.unplaced),
        }


def restore(
    project: Project,
    target: str,
    *,
    backup: str | None = None,
    keys: Sequence[Path] = (),
    passphrase: str | None = None,
    check: bool = False,
    say: Say = lambda _: None,
) -> RestoreReport:
    """Restores a backup (default: the newest), or with `check` only verifies all of it.

    Believed are the given public keys, those of the setting `trusted_keys`, the project's own, and the key
    that the passphrase opens. Raises ProjectError (`restore-occupied`, `backup-*`, `passphrase-*`),
    StoreError (`artifact-missing`, `artifact-corrupt`), EvidenceError, KeyMissingError: nothing of the
    project has changed then. Stopped at any moment it can be run again, and goes on (`restore-place` too).
    """
    chosen = _Chosen(project, target, backup, tuple(keys), passphrase, say)
    if check:
        with TemporaryDirectory(prefix="maestro-restore-") as folder:
            return _restore(chosen, Path(folder), None)
    remove_leftovers(project.home)
    with hold_home(project.home) as place:
        if (mark := place.mark) is not None and mark.ready and _has_happened(project, mark):
            if backup not in {None, mark.backup}:
                raise unfinished(project.home, mark)
            return _complete(place, project)
        return _restore(chosen, place.stage, place)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What was asked for."""

    project: Project
    target: str
    backup: str | None
    keys: tuple[Path, ...]
    passphrase: str | None
    say: Say


def _restore(chosen: _Chosen, stage: Path, place: Place | None) -> RestoreReport:
    """Into a place, or without one only to verify."""
    project, mark = chosen.project, None if place is None else place.mark
    store = BackupObjects(chosen.target)
    opened = open_backup(
        project, chosen.target, store, chosen.backup,
        keys=chosen.keys, passphrase=chosen.passphrase, prefer=None if mark is None else mark.backup,
    )  # fmt: skip
    manifest, trusted, sealed = opened.manifest, opened.trusted, opened.sealed
    store.know(manifest)
    inside = Path(project.lake).is_relative_to(project.home)
    lake = LakeGoal(
        store,
        str(stage / Path(project.lake).relative_to(project.home)) if inside else project.lake,
        elsewhere=not inside,
        again=mark is not None and mark.backup == manifest.id,
    )
    if place is not None:
        place.refuse_occupied()
        lake.refuse_occupied(entry.path for entry in manifest.part("lake"))
        place.begin(manifest.id)
    work = _Restore(project, store, manifest, stage, chosen.say, lake)
    try:
        # Keys stay in memory when nothing is to be kept of them.
        work.write_home(sealed or {} if place else {})
        if place is not None:
            place.keep_secrets()
        with work.database(write=place is not None) as load:
            runs = work.read_runs(load)
            own = work.public_keys()
            claims = work.verify_receipts(runs, [*trusted, *own])
            adopted = work.adopt_ended(load, runs, [*trusted, *own], own)
            work.check_rest(write=place is not None)
            report = RestoreReport(
                manifest.id, manifest.created_at, len(manifest.entries), manifest.size,
                len(manifest.part("evidence")), claims,
                len({run_id for run_id, run in runs.items() if run.evidence is None}.difference(adopted)),
                adopted, manifest.left_out, place is not None, tuple(sorted(manifest.lost)),
            )  # fmt: skip
            if place is not None:
                report = replace(report, unplaced=place.fit_secrets())
                work.tell_places(load)
                place.set_ready(asdict(report))
                _commit(place, load)
                place.move_in()
    except BaseException:
        if place is not None and not place.kept:
            lake.undo()
        raise
    return report


def _commit(place: Place, load: Load | None) -> None:
    """The moment of truth. What interrupts it leaves the mark: the next restore looks what has happened."""
    if load is not None and place.mark is not None:
        load.note(place.mark.token)
        load.commit()


def _has_happened(project: Project, mark: Mark) -> bool:
    url = project.settings.database
    return url is None or is_committed(url, mark.token)


def _complete(place: Place, project: Project) -> RestoreReport:
    """All was verified by the restore that was stopped; what is left is to move it."""
    assert place.mark is not None  # noqa: S101 - the caller has looked
    told = dict(place.mark.report)
    if project.settings.database:
        finish_tables(project.settings.database)
    place.move_in()
    for name in ("adopted", "left_out", "lost", "unplaced"):
        told[name] = tuple(told[name])
    return RestoreReport(**told)


@dataclass
class _Restore:
    """One backup on its way into `stage`, the state folder that is to be."""

    project: Project
    store: ArtifactStore
    manifest: Manifest
    stage: Path
    say: Say
    lake: LakeGoal

    def write_home(self, sealed: dict[str, bytes]) -> None:
        """The files of the state folder, the databases among them looked through."""
        entries = self.manifest.part("home")
        for number, entry in enumerate(entries, start=1):
            self.say(f"state: {number} of {len(entries)} files")
            path = self.stage / entry.path
            self.store.export(Artifact(entry.digest, BINARY, entry.size), path)
            path.chmod(entry.mode & 0o777)
            if path.suffix in SUFFIXES:
                with of_file(f"backup {self.manifest.id}, {name_file('home', entry.path)}"):
                    check_database(path)
        for name, data in sealed.items():
            path = self.stage / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(data)
        for name in SECRET_FOLDERS:
            if (self.stage / name).is_dir():
                (self.stage / name).chmod(0o700)

    def public_keys(self) -> tuple[bytes, ...]:
        """Of the project at the time, older ones too: they came under the signature of the backup."""
        return load_trusted(sorted((self.stage / "keys").glob(f"*{PUBLIC_SUFFIX}")))

    @contextmanager
    def database(self, *, write: bool) -> Iterator[Load | None]:
        """The project's PostgreSQL with the tables of the backup, which nobody else sees yet."""
        entries = {entry.path: entry for entry in self.manifest.part("database")}
        url, revision = self.project.settings.database, self.manifest.revision
        if (url is None) != (revision is None):
            raise ProjectError(
                "the backup is of a project " + ("with" if revision else "without") + " a database",
                place="setting database",
                remedy="name an empty PostgreSQL with it" if revision else "restore without it, then "
                "run `maestro migrate`",
                code="restore-database",
            )  # fmt: skip
        if url is None or revision is None or not write:
            for entry in entries.values():
                self._compare(entry)
            yield None
            return

        def fetch(name: str) -> Path:
            entry, path = entries[name], self.stage / "scratch" / "tables" / name
            path.unlink(missing_ok=True)
            self.store.export(Artifact(entry.digest, BINARY, entry.size), path)
            return path

        with load_tables(url, revision, fetch, list(entries)) as load:
            yield load

    def read_runs(self, load: Load | None) -> dict[str, KnownRun]:
        """The runs of the journal, each with the digest of its bundle once it has ended."""
        with self._journal(load) as journal:
            if journal is not None:
                rows = journal.execute(f"SELECT {', '.join(COLUMNS)} FROM run").fetchall()  # noqa: S608 - ours
                return {run_id: KnownRun(*rest) for run_id, *rest in rows}
        entry = next((entry for entry in self.manifest.part("database") if entry.path == "run"), None)
        if entry is None:
            return {}
        path = self.stage / "scratch" / "run"  # only a check: its tables are in no database
        self.store.export(Artifact(entry.digest, BINARY, entry.size), path)
        table = read_columns(path, COLUMNS)
        runs = {str(run_id): KnownRun(str(flow), evidence) for run_id, flow, evidence in table}
        path.unlink()
        return runs

    def verify_receipts(self, runs: Mapping[str, KnownRun], keys: Sequence[bytes]) -> int:
        """Verifies every bundle, and that the journal knows it. Gives how many claims hold."""
        known = {run_id: run.evidence for run_id, run in runs.items() if run.evidence is not None}
        entries, lost = self.manifest.part("evidence"), self.manifest.lost
        if known != {**lost, **{entry.path: entry.digest for entry in entries}}:
            raise ProjectError(
                "the journal and the evidence in the backup are not of one moment",
                place=f"backup {self.manifest.id}",
                remedy=OLDER,
                code="backup-malformed",
            )
        claims = 0
        for number, entry in enumerate(entries, start=1):
            self.say(f"evidence: {number} of {len(entries)} receipts")
            data = self.store.read(entry.digest)
            claims += verify_receipt(data, entry.path, keys, self.manifest.id).claims
        return claims

    def adopt_ended(
        self,
        load: Load | None,
        runs: Mapping[str, KnownRun],
        keys: Sequence[bytes],
        own: Sequence[bytes],
    ) -> tuple[str, ...]:
        """Runs that ended after the backup, as evidence tells that is not lost with the state folder."""
        if self.project.evidence_url is None and self.project.evidence.is_relative_to(self.project.home):
            return ()
        self.say("evidence: runs that ended after the backup")
        settings, store = self.project.settings, self._evidence(None)
        believed = Believed(keys, own, settings.tenant, settings.env)
        ended = find_ended(store, runs, believed, self._evidence(self.stage).keep)
        with self._journal(load) as journal:
            if journal is not None:
                adopt_runs(journal, ended, store.place)
            if load is not None:
                release_budgets(load.connection(), ended, "budget_")
        clear_stage(self.stage, ended)
        return tuple(each.run_id for each in ended)

    @contextmanager
    def _journal(self, load: Load | None) -> Iterator[Connection | None]:
        """The journal that is to be; None where there is none, or only the files of its tables."""
        path = self.stage / "journal.sqlite"
        if load is not None:
            yield load.connection()
        elif self.manifest.revision is not None or not path.is_file():
            yield None
        else:
            with closing(sqlite3.connect(path)) as connection, connection:
                yield connection

    def check_rest(self, *, write: bool) -> None:
        """Artifacts, evidence and lake: every byte is compared, and put where the project wants it."""
        for part in ("artifacts", "evidence", "lake"):
            entries = self.manifest.part(part)
            for number, entry in enumerate(entries, start=1):
                self.say(f"{part}: {number} of {len(entries)} files")
                if write:
                    self._place(entry)
                else:
                    self._compare(entry)

    def tell_places(self, load: Load | None) -> None:
        """The journal learns where its evidence lies now."""
        store = self._evidence(None)
        runs = [*(entry.path for entry in self.manifest.part("evidence")), *self.manifest.lost]
        places = [(store.place(run_id), run_id) for run_id in runs]
        with self._journal(load) as journal:
            if journal is not None:
                journal.executemany("UPDATE run SET evidence_path = ? WHERE run_id = ?", places)
        shutil.rmtree(self.stage / "scratch", ignore_errors=True)

    def _compare(self, entry: Entry) -> None:
        from hashlib import sha256

        found = sha256()
        for piece in self.store.chunks(entry.digest):
            found.update(piece)
        if f"sha256:{found.hexdigest()}" != entry.digest:
            raise StoreError(
                f"the backup's object {entry.digest} is damaged",
                place=f"backup {self.manifest.id}, {name_file(entry.part, entry.path)}",
                remedy=OLDER,
                code="artifact-corrupt",
            )

    def _place(self, entry: Entry) -> None:
        artifact = Artifact(entry.digest, BINARY, entry.size)
        if entry.part == "artifacts":
            self._place_artifact(artifact)
        elif entry.part == "evidence":
            self._evidence(self.stage).publish(entry.path, self.store.read(entry.digest))
        else:
            self.lake.lay(entry)

    def _place_artifact(self, artifact: Artifact) -> None:
        goal = open_store(self._inside(self.project.artifact_store))
        if goal.has(artifact.digest):
            self._compare(Entry("artifacts", artifact.digest, artifact.digest, artifact.size))
            return
        copy = self.stage / "scratch" / "artifact"
        self.store.export(artifact, copy)
        goal.put_file(copy, BINARY)
        copy.unlink()

    def _inside(self, place: str) -> str:
        """A place of the project; one in the state folder is in the folder aside, for the time being."""
        path = Path(place)
        if "://" in place or not path.is_relative_to(self.project.home):
            return place
        return str(self.stage / path.relative_to(self.project.home))

    def _evidence(self, stage: Path | None) -> EvidenceStore:
        folder = self.project.evidence
        if stage is not None:
            folder = Path(self._inside(str(folder)))
        return EvidenceStore(folder, self.project.evidence_url)
