"""`maestro restore`: a project's state out of a backup, into an empty state folder.

Everything is read, compared with its signed digest and laid into a folder aside; the receipts of all runs
are verified there. Only then does the folder take its place, so a restore is done or has not happened.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_dagster.artifacts.interface import Artifact, ArtifactStore
from maestro_dagster.artifacts.store import open_store
from maestro_dagster.errors import EvidenceError, ProjectError, StoreError
from maestro_dagster.evidence.key import load_trusted
from maestro_dagster.evidence.store import EvidenceStore
from maestro_dagster.evidence.trust import KeyTrust
from maestro_dagster.evidence.verify import verify_bundle
from maestro_dagster.project.adopt import (
    COLUMNS,
    Believed,
    KnownRun,
    adopt_runs,
    clear_stage,
    find_ended,
    release_budgets,
)
from maestro_dagster.project.backup_source import BINARY, PUBLIC_SUFFIX, SECRET_FOLDERS
from maestro_dagster.project.backup_statement import (
    Entry,
    Manifest,
    open_statement,
    read_manifest,
)
from maestro_dagster.project.backup_trust import list_trusted, open_keys, read_newest
from maestro_dagster.project.dump import Load, load_tables, read_columns
from maestro_dagster.project.root import Project
from maestro_dagster.project.snapshot import SUFFIXES, check_database

if TYPE_CHECKING:
    from maestro_dagster.database.interface import Connection

Say = Callable[[str], None]
_KEEPABLE = frozenset(SECRET_FOLDERS)  # what may stand in the state folder before


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """`written` is False after a mere check. `open_runs`: runs that had not ended; the loop resumes them.

    `adopted`: runs that ended after the backup, taken over from the evidence that they left.
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
    project has changed then.
    """
    store = open_store(target)
    signed = read_newest(target, backup)
    sealed = open_keys(store, signed, passphrase)
    trusted = list_trusted(project, keys, sealed)
    about = open_statement(signed, KeyTrust(trusted))
    manifest = read_manifest(store.read(about["manifest"]), about)
    if not check:
        _refuse_occupied(project, manifest)
    with _staging(project) as stage:
        work = _Restore(project, store, manifest, stage, say)
        work.write_home(sealed or {})
        if not check:
            work.keep_secrets()
        with work.database(write=not check) as load:
            runs = work.read_runs(load)
            own = work.public_keys()
            claims = work.verify_receipts(runs, [*trusted, *own])
            adopted = work.adopt_ended(load, runs, [*trusted, *own], own)
            work.check_rest(write=not check)
            if not check:
                work.take_place(load)
    return RestoreReport(
        manifest.id, manifest.created_at, len(manifest.entries), manifest.size,
        len(manifest.part("evidence")), claims,
        len({run_id for run_id, run in runs.items() if run.evidence is None}.difference(adopted)),
        adopted, manifest.left_out, not check,
    )  # fmt: skip


@dataclass
class _Restore:
    """One backup on its way into `stage`, the state folder that is to be."""

    project: Project
    store: ArtifactStore
    manifest: Manifest
    stage: Path
    say: Say

    def write_home(self, sealed: dict[str, bytes]) -> None:
        """The files of the state folder, the databases among them looked through."""
        entries = self.manifest.part("home")
        for number, entry in enumerate(entries, start=1):
            self.say(f"state: {number} of {len(entries)} files")
            path = self.stage / entry.path
            self.store.export(Artifact(entry.digest, BINARY, entry.size), path)
            path.chmod(entry.mode & 0o777)
            if path.suffix in SUFFIXES:
                check_database(path)
        for name, data in sealed.items():
            path = self.stage / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(data)
        for name in SECRET_FOLDERS:
            if (self.stage / name).is_dir():
                (self.stage / name).chmod(0o700)

    def keep_secrets(self) -> None:
        """Keys and secrets that the state folder has already."""
        for name in _KEEPABLE:
            if (self.project.home / name).is_dir():
                _merge(self.project.home / name, self.stage / name)

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
        entries = self.manifest.part("evidence")
        if known != {entry.path: entry.digest for entry in entries}:
            raise ProjectError(
                "the journal and the evidence in the backup are not of one moment",
                place=self.manifest.id,
                remedy="take another backup",
                code="backup-malformed",
            )
        claims = 0
        for number, entry in enumerate(entries, start=1):
            self.say(f"evidence: {number} of {len(entries)} receipts")
            report = verify_bundle(self.store.read(entry.digest), keys)
            if not report.ok or report.run_id != entry.path:
                why = "; ".join(map(str, report.problems[:3])) or f"it is of the run {report.run_id}"
                raise EvidenceError(
                    f"the receipt of the run {entry.path} does not verify: {why}",
                    place=f"backup {self.manifest.id}",
                    remedy="take another backup, or give the key that signed the run with --key",
                    code="receipt-refused",
                )
            claims += report.claims
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

    def take_place(self, load: Load | None) -> None:
        """The journal learns where its evidence lies now; then the folder becomes the project's."""
        store = self._evidence(None)
        places = [(store.place(entry.path), entry.path) for entry in self.manifest.part("evidence")]
        with self._journal(load) as journal:
            if journal is not None:
                journal.executemany("UPDATE run SET evidence_path = ? WHERE run_id = ?", places)
        shutil.rmtree(self.stage / "scratch", ignore_errors=True)
        home = self.project.home
        aside = home.with_name(f".{home.name}.before")
        if load is not None:
            load.commit()
        if home.exists():
            home.rename(aside)
        self.stage.rename(home)
        shutil.rmtree(aside, ignore_errors=True)

    def _compare(self, entry: Entry) -> None:
        from hashlib import sha256

        found = sha256()
        for piece in self.store.chunks(entry.digest):
            found.update(piece)
        if f"sha256:{found.hexdigest()}" != entry.digest:
            raise StoreError(
                f"the backup's object {entry.digest} is damaged",
                place=f"backup {self.manifest.id}, {entry.part} {entry.path}",
                remedy="take another backup",
                code="artifact-corrupt",
            )

    def _place(self, entry: Entry) -> None:
        artifact = Artifact(entry.digest, BINARY, entry.size)
        if entry.part == "artifacts":
            self._place_artifact(artifact)
        elif entry.part == "evidence":
            self._evidence(self.stage).publish(entry.path, self.store.read(entry.digest))
        else:
            self._place_lake(artifact, entry.path)

    def _place_artifact(self, artifact: Artifact) -> None:
        goal = open_store(self._inside(self.project.artifact_store))
        if goal.has(artifact.digest):
            self._compare(Entry("artifacts", artifact.digest, artifact.digest, artifact.size))
            return
        copy = self.stage / "scratch" / "artifact"
        self.store.export(artifact, copy)
        goal.put_file(copy, BINARY)
        copy.unlink()

    def _place_lake(self, artifact: Artifact, name: str) -> None:
        lake = self._inside(self.project.lake)
        if "://" not in lake:
            self.store.export(artifact, Path(lake) / name)
            return
        from maestro_dagster.objects.bucket import Bucket

        pieces = self.store.chunks(artifact.digest)
        hexadecimal = artifact.digest.removeprefix("sha256:")
        if not Bucket(lake, setting="lake").create_from(name, pieces, artifact.size, hexadecimal):
            raise _occupied(f"{lake}/{name}", "the lake is not empty")

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


def _refuse_occupied(project: Project, manifest: Manifest) -> None:
    """Nothing is restored over something: a state folder may hold keys and secrets, and nothing else."""
    home = project.home
    if home.is_dir():
        others = sorted(path.name for path in home.iterdir() if path.name not in _KEEPABLE)
        if others:
            raise _occupied(str(home), f"the state folder holds {', '.join(others[:5])}")
    lake = project.lake
    if manifest.part("lake") and not Path(lake).is_relative_to(home):
        from maestro_dagster.project.backup_source import open_source

        if open_source(lake).list():
            raise _occupied(lake, "the lake is not empty")


def _occupied(place: str, why: str) -> ProjectError:
    return ProjectError(
        f"there is something already where the backup is to go: {why}",
        place=place,
        remedy="stop what runs there and move it away, or set MAESTRO_HOME to a new folder",
        code="restore-occupied",
    )


@contextmanager
def _staging(project: Project) -> Iterator[Path]:
    """A new folder beside the state folder, gone afterwards unless it has taken its place."""
    import tempfile

    home = project.home
    home.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{home.name}.restoring-", dir=home.parent))
    if home.is_dir():  # else nobody but the operator reads it, as after `maestro init`
        stage.chmod(home.stat().st_mode & 0o777)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _merge(given: Path, stage: Path) -> None:
    """Keys that were there before stay; a different one of the same name is refused."""
    for path in sorted(given.rglob("*")):
        if not path.is_file():
            continue
        goal = stage / path.relative_to(given)
        if not goal.exists():
            goal.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copy2(path, goal)
        elif goal.read_bytes() != path.read_bytes():
            raise _occupied(str(path), "another key or secret of this name")
