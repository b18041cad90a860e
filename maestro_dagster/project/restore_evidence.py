"""One bundle out of a backup, into a project that lives: the remedy where evidence was lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maestro_dagster.errors import EvidenceError, MaestroError
from maestro_dagster.evidence.key import load_trusted
from maestro_dagster.evidence.store import EvidenceStore
from maestro_dagster.project.backup_object import BackupObjects
from maestro_dagster.project.backup_source import PUBLIC_SUFFIX
from maestro_dagster.project.backup_statement import Entry
from maestro_dagster.project.backup_target import LISTING, open_statements
from maestro_dagster.project.backup_trust import open_backup, verify_receipt
from maestro_dagster.project.database import find_journal
from maestro_dagster.project.root import Project


@dataclass(frozen=True, slots=True)
class FetchedEvidence:
    """`written` is False where the bundle was there already, or after a mere check."""

    run: str
    backup: str
    place: str
    written: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def restore_evidence(
    project: Project,
    target: str,
    run_id: str,
    *,
    backup: str | None = None,
    keys: Sequence[Path] = (),
    passphrase: str | None = None,
    check: bool = False,
    say: Callable[[str], object] = lambda _: None,
) -> FetchedEvidence:
    """Puts the bundle that the journal knows where it belongs, out of the newest backup with it, or of one.

    Nothing is replaced. Raises EvidenceError (`bundle-missing`, `receipt-refused`, `evidence-conflict`), and
    as `restore` does.
    """
    store = BackupObjects(target)
    known = _read_known(project, run_id)
    found = None
    faults: list[MaestroError] = []
    if known is None:
        raise _missing(run_id, target, backup)
    for each in [backup] if backup else reversed(open_statements(target).ids()):
        say(f"backup {each}")
        try:
            trusted, entry = _find(project, target, store, each, run_id, (keys, passphrase))
        except MaestroError as error:  # an older one may hold
            if backup:
                raise
            faults.append(error)
            continue
        if entry is not None and entry.digest == known:
            found = each, trusted, entry
            break
    if found is None:
        if faults:
            raise faults[0]
        raise _missing(run_id, target, backup)
    each, trusted, entry = found
    data = store.read(entry.digest)
    own = load_trusted(sorted(project.keys.glob(f"*{PUBLIC_SUFFIX}")))
    verify_receipt(data, run_id, [*trusted, *own], each)
    goal = EvidenceStore(project.evidence, project.evidence_url)
    stored = goal.find(run_id, entry.digest).stored
    if stored == "changed":
        raise EvidenceError(
            f"there is other evidence of the run {run_id}, and evidence is never replaced",
            place=goal.place(run_id),
            remedy="find out who changed it; move it away, then run this again",
            code="evidence-conflict",
        )
    write = stored == "missing" and not check
    if write:
        goal.publish(run_id, data)
    return FetchedEvidence(run_id, each, goal.place(run_id), write)


def _read_known(project: Project, run_id: str) -> str | None:
    """The digest in the journal; None while the run goes on. Raises JournalError (`run-unknown`)."""
    journal = find_journal(project)
    if journal is None:
        return None
    with closing(journal):
        return journal.run(run_id).evidence_digest


def _find(
    project: Project,
    target: str,
    store: BackupObjects,
    backup: str,
    run_id: str,
    given: tuple[Sequence[Path], str | None],
) -> tuple[tuple[bytes, ...], Entry | None]:
    """Whose signature counts for a backup, and what it has of a run."""
    keys, passphrase = given
    opened = open_backup(project, target, store, backup, keys=keys, passphrase=passphrase)
    entries = opened.manifest.part("evidence")
    return opened.trusted, next((each for each in entries if each.path == run_id), None)


def _missing(run_id: str, target: str, backup: str | None) -> EvidenceError:
    return EvidenceError(
        f"no backup has the evidence of the run {run_id} that the journal knows"
        if backup is None
        else f"the backup {backup} does not have the evidence of the run {run_id} that the journal knows",
        place=target,
        remedy=f"look into another TARGET; {LISTING}",
        code="bundle-missing",
    )
