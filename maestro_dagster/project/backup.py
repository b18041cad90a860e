"""`maestro backup`: a project as of one moment, in a folder or an object store, while it goes on running.

The journal's moment is the backup's. What the journal refers to was durable before, and is copied after it.
What is made from ended runs, the lake, is copied before it: so it never knows a run better than the journal
does. Usage on its way from the spool into the lake is held all the while, so none of it is missed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from maestro_dagster.artifacts.interface import ArtifactStore
from maestro_dagster.artifacts.store import open_store
from maestro_dagster.errors import StoreError
from maestro_dagster.evidence.key import load_signer
from maestro_dagster.evidence.store import EvidenceStore
from maestro_dagster.manifest.canonical import digest_bytes
from maestro_dagster.project.backup_evidence import BundleFaults, read_bundles
from maestro_dagster.project.backup_moment import (
    ATTEMPTS,
    NOTHING,
    RUNS,
    HeldFolder,
    Moment,
    hold_folder,
    read_moment,
)
from maestro_dagster.project.backup_object import BackupObjects
from maestro_dagster.project.backup_source import (
    BINARY,
    find_databases,
    find_secret_files,
    find_state_files,
    open_source,
    store_file,
    store_settled,
    walk_events,
    walk_files,
)
from maestro_dagster.project.backup_statement import (
    SUFFIX,
    Entry,
    Manifest,
    Part,
    sign_manifest,
)
from maestro_dagster.project.backup_target import check_target, is_inside, open_statements, target_error
from maestro_dagster.project.database import require_moved
from maestro_dagster.project.dump import dump_tables, read_usage
from maestro_dagster.project.root import Project
from maestro_dagster.project.seal import seal_files
from maestro_dagster.project.snapshot import copy_database, pin_databases

if TYPE_CHECKING:
    import sqlite3

Say = Callable[[str], None]
CHOICES = ("artifacts", "lake")  # what may be left out by name


@dataclass(frozen=True, slots=True)
class BackupReport:
    """`new_bytes` is what the target did not hold before. `damaged`: digests of artifacts that the project's
    store holds damaged; they are not in the backup. `lost`: runs whose evidence is missing or changed where
    it belongs; `put_back`: those whose bundle the object store lacked, and has again from this machine.
    """

    id: str
    target: str
    files: int
    size: int
    new_bytes: int
    runs: int
    bundles: int
    left_out: tuple[str, ...]
    damaged: tuple[str, ...]
    lost: tuple[str, ...] = ()
    put_back: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "backup": self.id,
            "target": self.target,
            "files": self.files,
            "bytes": self.size,
            "new_bytes": self.new_bytes,
            "runs": self.runs,
            "bundles": self.bundles,
            "left_out": list(self.left_out),
            "damaged": list(self.damaged),
            "lost": list(self.lost),
            "put_back": list(self.put_back),
        }


def back_up(
    project: Project,
    target: str,
    *,
    passphrase: str | None = None,
    leave_out: Sequence[str] = (),
    say: Say = lambda _: None,
) -> BackupReport:
    """Makes a backup beside those that the target has; what they share is stored once.

    Without a passphrase private keys and secrets are left out. Raises KeyMissingError without a key to sign
    with, StoreError, ProjectError (`backup-target`, `backup-database`, `backup-unsettled`,
    `records-not-moved`), EvidenceError.
    """
    check_target(target)
    if is_inside(target, project.home):
        raise target_error("the backup would lie in the folder that it is a backup of", target)
    if project.settings.database:
        require_moved(project)  # its tables are still empty: a backup of them would hold nothing
    signer = load_signer(project.keys)
    work = _Backup(project, BackupObjects(target), say)
    sealed = _seal(project, passphrase, work)
    scratch = project.home / "scratch"
    with hold_folder(project.spool, scratch) as spool, hold_folder(project.inbox, scratch) as events:
        spool.hold(walk_files)
        work.note_usage()
        if "lake" not in leave_out:
            work.copy_lake()
        work.copy_databases(spool, events)
        work.copy_spool(spool.held)
        work.copy_events(events.held)
    work.copy_state()
    work.copy_evidence()
    if "artifacts" not in leave_out:
        work.copy_artifacts()
    now = datetime.now(UTC)
    secret = ("keys", "secrets") if sealed is None else ()
    # Tables that are Dagster's own, and counters that other projects share.
    history = ("dagster",) if project.settings.database else ()
    shared = ("budgets",) if project.settings.budget_database else ()
    manifest = Manifest(
        id=f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}Z-{secrets.token_hex(3)}",
        created_at=f"{now:%Y-%m-%dT%H:%M:%SZ}",
        project=project.settings.project_name,
        tenant=project.settings.tenant,
        release=version("maestro-dagster"),
        entries=tuple(sorted(work.entries, key=lambda entry: (entry.part, entry.path))),
        left_out=(*(name for name in CHOICES if name in leave_out), *secret, *history, *shared),
        sealed=sealed,
        revision=work.revision,
        counts={"runs": work.moment.runs, "bundles": len(work.moment.bundles) - len(work.bundles.lost)},
        lost=work.bundles.lost,
    )
    work.put(manifest.encode())
    statements = open_statements(target)
    if not statements.create(f"{manifest.id}{SUFFIX}", sign_manifest(manifest, signer)):
        raise target_error("there is a backup of this name already", target)
    return BackupReport(
        manifest.id, target, len(manifest.entries), manifest.size, work.new_bytes,
        work.moment.runs, manifest.counts["bundles"], manifest.left_out, tuple(work.damaged),
        work.bundles.told, tuple(work.bundles.put_back),
    )  # fmt: skip


@dataclass
class _Backup:
    """One backup in the making."""

    project: Project
    store: ArtifactStore
    say: Say
    entries: list[Entry] = field(default_factory=list)
    moment: Moment = NOTHING
    usage: Mapping[str, frozenset[bytes]] = field(default_factory=dict)  # rows of the database, seen early
    revision: str | None = None
    damaged: list[str] = field(default_factory=list)
    bundles: BundleFaults = field(default_factory=BundleFaults)
    held: frozenset[str] = frozenset()  # what the target had before

    def __post_init__(self) -> None:
        self.held = frozenset(digest for digest, _ in self.store.contents())

    @property
    def new_bytes(self) -> int:
        new = {entry.digest: entry.size for entry in self.entries if entry.digest not in self.held}
        return sum(new.values())

    def put(self, data: bytes) -> str:
        digest = digest_bytes(data)
        if digest not in self.held:
            self.store.put_bytes(data, BINARY)
        return digest

    def note_usage(self) -> None:
        """Usage that a compaction may move from the database into the lake while we look."""
        if url := self.project.settings.database:
            self.usage = read_usage(url)

    def copy_databases(self, spool: HeldFolder, events: HeldFolder) -> None:
        """All databases as of the backup's moment, and hold of the events that were not in them yet."""
        paths, _ = find_databases(self.project)
        url = self.project.settings.database
        with TemporaryDirectory(prefix="maestro-backup-") as folder:
            spool.hold(walk_files)
            events.hold(walk_events)
            at = time.time()  # not later: what began after it was in nobody's journal
            with pin_databases(paths) as pinned:
                events.hold(walk_events)
                if url:
                    self.revision, *rows = dump_tables(url, Path(folder), self._keep_table, self.usage)
                    self.moment = read_moment(at, *rows)
                elif journal := pinned.get(self.project.journal):
                    self.moment = read_moment(at, journal.execute(RUNS), journal.execute(ATTEMPTS))
                spool.hold(walk_files)
                self._copy_pinned(pinned, Path(folder))

    def copy_spool(self, held: Path) -> None:
        for path in walk_files(held):
            name = path.relative_to(held)
            cut = self.moment.cut_lineage if name.parts[0] == "lineage" else self.moment.cut_usage
            self._keep_state(path, Path("spool") / name, cut if path.suffix == ".ndjson" else None)

    def copy_events(self, held: Path) -> None:
        """Those that wait beside the inbox; one that is in its table by then is known by its id."""
        for path in walk_files(held):
            self._keep_state(path, Path("inbox") / path.relative_to(held), None)

    def copy_state(self) -> None:
        kept = {entry.path for entry in self.entries if entry.part == "home"}
        for path in find_state_files(self.project):
            name = path.relative_to(self.project.home)
            if name.as_posix() in kept:
                continue
            cut = None
            if name.parts[0] == "traces":
                cut = partial(self.moment.cut_trace, run_id=path.stem)
            self._keep_state(path, name, cut)

    def copy_evidence(self) -> None:
        """The bundles that the journal knew at its moment; what became of others is in `bundles`."""
        source = EvidenceStore(self.project.evidence, self.project.evidence_url)
        for run_id, data in read_bundles(source, self.moment.bundles, self.bundles, self.say):
            self._add("evidence", run_id, self.put(data), len(data))

    def copy_artifacts(self) -> None:
        source = open_store(self.project.artifact_store)
        for number, (digest, size) in enumerate(source.contents(), start=1):
            self.say(f"artifacts: {number}")
            if digest not in self.held and not self._copy_artifact(source, digest, size):
                self.damaged.append(digest)
                continue
            self._add("artifacts", digest, digest, size)

    def copy_lake(self) -> None:
        _, paths = find_databases(self.project)
        with TemporaryDirectory(prefix="maestro-backup-") as folder, pin_databases(paths) as pinned:
            self._copy_pinned(pinned, Path(folder))
        stored = store_settled(open_source(self.project.lake), self.store, self.say)
        for name, artifact in stored.items():
            self._add("lake", name, artifact.digest, artifact.size)

    def _copy_artifact(self, source: ArtifactStore, digest: str, size: int) -> bool:
        from maestro_dagster.artifacts.interface import Artifact

        with TemporaryDirectory(prefix="maestro-backup-") as folder:
            copy = Path(folder) / "artifact"
            try:
                source.export(Artifact(digest, BINARY, size), copy)
            except StoreError as error:
                if error.error_code not in {"artifact-corrupt", "artifact-missing"}:
                    raise
                return False
            self.store.put_file(copy, BINARY)
        return True

    def _copy_pinned(self, pinned: Mapping[Path, sqlite3.Connection], folder: Path) -> None:
        for number, (path, connection) in enumerate(pinned.items(), start=1):
            self.say(f"databases: {number} of {len(pinned)}")
            copy = folder / f"{number}.copy"
            copy_database(connection, path, copy)
            self._keep_file(copy, path)
            copy.unlink()

    def _keep_state(self, path: Path, name: Path, cut: Callable[[bytes], bytes] | None) -> None:
        try:
            stored = store_file(path, self.store, cut)
            mode = path.stat().st_mode & 0o777
        except FileNotFoundError:
            return  # removed by its owner, who had no use for it any more
        self._add("home", name.as_posix(), stored.digest, stored.size, mode)

    def _keep_table(self, name: str, path: Path) -> None:
        self.say(f"database: {name}")
        stored = self.store.put_file(path, BINARY)
        self._add("database", name, stored.digest, stored.size)

    def _keep_file(self, copy: Path, path: Path) -> None:
        stored = self.store.put_file(copy, BINARY)
        lake = "://" not in self.project.lake and path.is_relative_to(self.project.lake)
        part: Part = "lake" if lake else "home"
        base = Path(self.project.lake) if lake else self.project.home
        mode = path.stat().st_mode & 0o777
        self._add(part, path.relative_to(base).as_posix(), stored.digest, stored.size, mode)

    def _add(self, part: Part, path: str, digest: str, size: int, mode: int = 0o644) -> None:
        self.entries.append(Entry(part, path, digest, size, mode))


def _seal(project: Project, passphrase: str | None, work: _Backup) -> str | None:
    """The digest of the sealed keys; None without a passphrase."""
    if passphrase is None:
        return None
    files = {
        path.relative_to(project.home).as_posix(): path.read_bytes() for path in find_secret_files(project)
    }
    return work.put(seal_files(files, passphrase))
