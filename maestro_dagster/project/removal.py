"""What a project removes and proves: usage that is older than its tier allows, and who was behind it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from maestro_dagster.project.root import Project

if TYPE_CHECKING:
    from maestro_dagster.costs.interface import UsageSpool
    from maestro_dagster.costs.lake import Lake
    from maestro_dagster.costs.proof import ProofJournal
    from maestro_dagster.costs.retention import KeepPolicy, RetentionReport
    from maestro_dagster.costs.subject import SubjectMap

JOURNAL_NAME = "removals.ndjson"
POLICY_FILE = "resources/retention.yaml"
_HOLD = "legal-hold"


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """`forgotten`: {"tenant", "surrogate", "proof"} of each; `restored`: surrogates that a backup had brought
    back although they were forgotten before, and that are gone again.
    """

    forgotten: tuple[Mapping[str, str], ...]
    restored: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"forgotten": [dict(one) for one in self.forgotten], "restored": list(self.restored)}


def open_removals(project: Project) -> ProofJournal:
    from maestro_dagster.costs.proof import ProofJournal

    return ProofJournal(project.home / JOURNAL_NAME)


def open_subjects(project: Project) -> SubjectMap:
    """Who is behind the surrogates in the project's usage."""
    from maestro_dagster.costs.subject import SubjectMap

    return SubjectMap(project.home / "subjects.sqlite", project.keys / "subjects.key")


def read_keep_policy(project: Project) -> KeepPolicy:
    """What must be kept. Raises ManifestError for a flow that cannot be read: it might be held."""
    from maestro_dagster.costs.retention import load_keep_policy
    from maestro_dagster.project.load import read_flows

    held = [flow.name for flow in read_flows(project) if flow.legal_hold or flow.retention_tier == _HOLD]
    return load_keep_policy(project.root / POLICY_FILE, held)


def retain_project_usage(
    project: Project,
    lake: Lake,
    spool: UsageSpool,
    *,
    dry_run: bool = False,
    run: str = "",
    today: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> RetentionReport:
    """Removes what is older than its tier allows. `today` is YYYY-MM-DD in UTC; None: today.

    Raises KeyMissingError before anything is removed that could not be proven, ManifestError, CostError.
    """
    from maestro_dagster.costs.retention import retain_usage

    now = _now()
    return retain_usage(
        lake,
        read_keep_policy(project),
        open_removals(project),
        _refuse_to_sign if dry_run else _signing(project),
        today=today or now[:10],
        now=now,
        waiting=spool.runs(),
        run=run,
        dry_run=dry_run,
        say=say,
    )


def forget_person(project: Project, person: str, reason: str, tenant: str | None = None) -> ForgetReport:
    """Destroys what links the person to usage, in one tenant or in all, and proves it.

    Proofs that an earlier call could not write are written too, and people that a restored backup of the map
    had brought back are forgotten again. Raises KeyMissingError before anything is destroyed, UsageError
    (`reason-personal`), CostError.
    """
    from maestro_dagster.costs.subject import describe_forgotten, fold_identifier
    from maestro_dagster.errors import UsageError

    identifier = fold_identifier(person)
    if identifier and identifier in reason.casefold():
        raise UsageError(
            "the reason names the person, and it is kept for good",
            place="--reason",
            remedy="name a case or a request instead",
            code="reason-personal",
        )
    sign, journal, subjects = _signing(project), open_removals(project), open_subjects(project)
    proofs: dict[str, dict[str, str]] = {}
    with journal.turn():
        before = _forgotten_before(journal)
        back = subjects.forget(before, "forgotten before; a backup brought it back", _now())
        wanted = [surrogate for _, surrogate in subjects.find(person, tenant)]
        subjects.forget(wanted, reason, _now())
        for gone in subjects.waiting():
            digest = journal.append(describe_forgotten(gone), sign)
            subjects.settle([gone.surrogate])
            proofs[gone.surrogate] = {
                "tenant": gone.tenant, "surrogate": gone.surrogate, "proof": digest,
            }  # fmt: skip
    restored = tuple(one.surrogate for one in back)
    return ForgetReport(tuple(proofs[one] for one in proofs if one not in restored), restored)


def verify_removals(project: Project) -> dict[str, Any]:
    """Checks every line of the journal: signature, place, chain.

    Trusted are the project's keys, those it had before and those of its settings. Gives {"lines", "rows",
    "forgotten", "newest"}. Raises CostError (`proofs-damaged`), KeyMissingError.
    """
    from maestro_dagster.costs import removal, subject
    from maestro_dagster.evidence.dsse import read_envelope, read_statement
    from maestro_dagster.evidence.key import load_trusted
    from maestro_dagster.evidence.trust import KeyTrust

    own = sorted(project.keys.glob("*.pub.pem"))
    keys = load_trusted([*own, *(project.path(text) for text in project.settings.trusted_keys)])
    known = (removal.PREDICATE_TYPE, subject.PREDICATE_TYPE)

    def open_bundle(bundle: bytes) -> Mapping[str, Any]:
        payload = KeyTrust(keys).open_statement(bundle)  # a key may have been replaced between two lines
        named = json.loads(read_envelope(bundle).payload).get("predicateType")
        return read_statement(payload, named if named in known else known[0])

    lines = rows = people = 0
    newest = ""
    for line, statement in open_removals(project).statements(open_bundle):
        lines, newest = lines + 1, line.digest
        rows += statement["predicate"].get("removed", {}).get("rows", 0)
        people += statement["predicateType"] == subject.PREDICATE_TYPE
    return {"lines": lines, "rows": rows, "forgotten": people, "newest": newest}


def _forgotten_before(journal: ProofJournal) -> list[str]:
    """Surrogates of the journal's proofs. What a stranger added can only make more be forgotten."""
    from maestro_dagster.costs.subject import PREDICATE_TYPE
    from maestro_dagster.evidence.dsse import read_envelope

    found = []
    for line in journal.read():
        statement = json.loads(read_envelope(line.bundle).payload)
        if statement.get("predicateType") == PREDICATE_TYPE:
            found.append(str(statement["predicate"]["surrogate"]))
    return found


def _signing(project: Project) -> Callable[[dict[str, Any]], bytes]:
    from maestro_dagster.evidence.dsse import sign_statement
    from maestro_dagster.evidence.key import load_signer

    signer = load_signer(project.keys)
    return lambda statement: sign_statement(statement, signer)


def _refuse_to_sign(statement: dict[str, Any]) -> bytes:
    raise AssertionError(f"a dry run signs nothing: {statement['predicateType']}")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
