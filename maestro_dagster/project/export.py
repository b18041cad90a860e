"""Exports of usage with the evidence for them: written, signed by the project's key, sent, verified."""

from __future__ import annotations

import base64
import json
import os
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_dagster.errors import CostError, EvidenceError, KeyMissingError

if TYPE_CHECKING:
    from maestro_dagster.costs.export import Progress
    from maestro_dagster.costs.focus import Charge
    from maestro_dagster.costs.interface import UsageSpool
    from maestro_dagster.costs.lake import Lake
    from maestro_dagster.costs.statement import ExportStatement
    from maestro_dagster.costs.webhook import Delivery
    from maestro_dagster.evidence.interface import Signer
    from maestro_dagster.evidence.problem import Problem
    from maestro_dagster.evidence.trust import Trust
    from maestro_dagster.evidence.verify import VerifyReport
    from maestro_dagster.project.root import Project

STATEMENT_SUFFIX = ".sigstore.json"
WEBHOOK_SECRET = "cost-webhook"  # noqa: S105 - the name of a secret
DELIVERIES = "deliveries.ndjson"


@dataclass(frozen=True, slots=True)
class SignedExport:
    """`bundle` is the signed statement, None when it was not wanted; `seal` is the file it is in."""

    statement: ExportStatement
    path: Path
    bundle: bytes | None = None
    seal: Path | None = None


def export_period(
    lake: Lake,
    target: Path,
    form: str,
    signer: Signer | None,
    *,
    spool: UsageSpool | None = None,
    since: str | None = None,
    until: str | None = None,
    charges: Sequence[Charge] = (),
    progress: Progress | None = None,
) -> SignedExport:
    """Writes the usage of a period to `target`, and its signed statement beside it when there is a signer.

    With a spool, usage counts that the lake does not have yet. Raises CostError.
    """
    from maestro_dagster.costs.export import export_usage
    from maestro_dagster.costs.usage_day import list_usage_days

    days = list_usage_days(lake, spool, since=since, until=until)
    statement = export_usage(days, target, form, since=since, until=until, charges=charges, progress=progress)
    if signer is None:
        return SignedExport(statement, target)
    bundle = sign_export(statement, signer)
    seal = target.with_name(target.name + STATEMENT_SUFFIX)
    _write(seal, bundle)
    return SignedExport(statement, target, bundle, seal)


def list_shared_charges(project: Project, since: str, until: str) -> list[Charge]:
    """The shared costs of each month that lies wholly in the period (days, both included), by month.

    Raises CostError (`shared-invalid`, `weights-invalid`).
    """
    from maestro_dagster.costs.allocate import allocate_shared, list_charges
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.costs.shared import read_shared
    from maestro_dagster.costs.weight import weigh_usage
    from maestro_dagster.project.services import open_spool

    lines = read_shared(project.root / "resources" / "shared.yaml")
    charges: list[Charge] = []
    for month in _whole_months(since, until) if lines else ():
        lake, spool = open_lake(project.lake), open_spool(project)
        weights = weigh_usage(lake, spool, f"{month}-01", _last_day(month))
        charges += list_charges(allocate_shared(lines, month, weights.usage))
    return charges


def _whole_months(since: str, until: str) -> list[str]:
    found = []
    first, last = (12 * int(day[:4]) + int(day[5:7]) - 1 for day in (since, until))
    for number in range(first, last + 1):
        name = f"{number // 12:04d}-{number % 12 + 1:02d}"
        if f"{name}-01" >= since and _last_day(name) <= until:
            found.append(name)
    return found


def _last_day(month: str) -> str:
    return f"{month}-{monthrange(int(month[:4]), int(month[5:7]))[1]}"


@dataclass(frozen=True, slots=True)
class PartitionExport:
    """An export made by Dagster. `lake_nano` and `lake_unknown` are what the manifests of its days say,
    `file_nano` is what the file holds; `told`: what came of the webhook.
    """

    export: SignedExport
    lake_nano: int
    lake_unknown: int
    file_nano: int
    told: str

    @property
    def balanced(self) -> bool:
        statement = self.export.statement
        return self.lake_nano == self.file_nano == statement.sum_nano and (
            self.lake_unknown == statement.unknown
        )


def export_partition(
    lake: Lake, home: Path, form: str, day: str, signer: Signer, *, monthly: bool = False
) -> PartitionExport:
    """What is published of a day, or of the month that begins with it, in `<home>/exports/<form>/`.

    A webhook that fails does not undo the export: `told` says so, and the next one of the day repeats it.
    """
    from maestro_dagster.costs.export import export_error, measure_export
    from maestro_dagster.costs.statement import FORMATS
    from maestro_dagster.costs.table import in_period

    last = _last_day(day[:7]) if monthly else day
    name = f"month={day[:7]}" if monthly else f"day={day}"
    folder = home / "exports" / form / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise export_error(error, folder) from error
    target = folder / f"{'focus' if form.startswith('focus') else 'usage'}{FORMATS[form]}"
    found = (lake.usage.manifest(each) for each in lake.usage.days() if in_period(each, day, last))
    manifests = [manifest for manifest in found if manifest is not None]
    export = export_period(lake, target, form, signer, since=day, until=last)
    return PartitionExport(
        export,
        sum(manifest.sum_nano for manifest in manifests),
        sum(manifest.unknown for manifest in manifests),
        measure_export(target, form)[1],
        _tell(export),
    )


def _tell(export: SignedExport) -> str:
    from maestro_dagster.errors import MaestroError
    from maestro_dagster.project.root import find_project

    try:
        project = find_project()
        if project.settings.export_webhook is None:
            return "none is set"
        delivery, _ = send_period(project, export, project.settings.export_webhook)
    except MaestroError as error:
        return f"not told: {error.fact}"
    return f"{delivery.host} took it (attempt {delivery.attempts})"


def sign_export(statement: ExportStatement, signer: Signer) -> bytes:
    """An in-toto Statement v1 about the exported file, in a Sigstore bundle; the same each time."""
    from maestro_dagster.costs.statement import PREDICATE_TYPE
    from maestro_dagster.evidence.dsse import STATEMENT_TYPE, sign_statement

    return sign_statement(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": statement.file, "digest": {"sha256": statement.digest.removeprefix("sha256:")}}
            ],
            "predicateType": PREDICATE_TYPE,
            "predicate": statement.to_json(),
        },
        signer,
    )


def send_period(
    project: Project, export: SignedExport, url: str, *, attach: bool = False
) -> tuple[Delivery, bool]:
    """Tells the URL of the export and writes down what came of it; also says whether the file went along.

    Raises CostError (`webhook-url`, `webhook-secret`, `webhook-failed`), ProjectError (`secret-open`).
    """
    from maestro_dagster.costs.webhook import ATTACHMENT_LIMIT, record_delivery, send_export
    from maestro_dagster.project.secret import secret_variable

    attached = attach and export.statement.size <= ATTACHMENT_LIMIT
    delivery = send_export(
        url,
        export.statement,
        find_webhook_secret(project),
        bundle=export.bundle,
        attachment=export.path.read_bytes() if attached else None,
        allowed=project.settings.network_allow_private,
    )
    record_delivery(project.home / "exports" / DELIVERIES, delivery)
    if not delivery.delivered:
        raise CostError(
            f"{export.path} was written, only the webhook did not take it after {delivery.attempts} "
            f"attempts: {delivery.error}",
            place=delivery.host,
            remedy=f"look at the receiver and at {secret_variable(WEBHOOK_SECRET)}, then export again: the "
            "message has the same id",
            code="webhook-failed",
        )
    return delivery, attached


def find_webhook_secret(project: Project) -> str:
    """Raises CostError (`webhook-secret`): nothing is ever sent unsigned, nor under what is no secret."""
    from maestro_dagster.costs.webhook import check_secret
    from maestro_dagster.project.secret import secret_source, secret_variable

    secret = secret_source(project.home)(WEBHOOK_SECRET)
    if secret is None:
        raise CostError(
            "there is no secret to sign the webhook with",
            place=f"secret {WEBHOOK_SECRET}",
            remedy=f"set {secret_variable(WEBHOOK_SECRET)}, or write it to "
            f"{project.home / 'secrets' / WEBHOOK_SECRET} (chmod 600)",
            code="webhook-secret",
        )
    check_secret(secret)
    return secret


def is_export_statement(data: bytes) -> bool:
    """Whether a bundle says that it is about an export; that proves nothing yet."""
    from maestro_dagster.costs.statement import PREDICATE_TYPE

    try:
        payload = json.loads(base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"]))
        return bool(payload["predicateType"] == PREDICATE_TYPE)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def verify_export(data: bytes, artifact: Path, trust: Trust) -> tuple[VerifyReport, ExportStatement | None]:
    """Whether somebody trusted signed this file with these figures. Reads the file piece by piece, offline.

    Whatever is wrong is a problem in the report; the statement is there once its signature was found good.
    """
    from maestro_dagster.costs.statement import PREDICATE_TYPE, read_statement
    from maestro_dagster.evidence.dsse import read_statement as open_statement
    from maestro_dagster.evidence.problem import Problem
    from maestro_dagster.evidence.verify import VerifyReport

    try:
        document = open_statement(trust.open_statement(data), PREDICATE_TYPE)
        statement = read_statement(document["predicate"])
        found = _compare(document["subject"], statement, artifact)
    except (EvidenceError, CostError) as error:
        return VerifyReport((Problem(error.error_code, error.place or str(artifact), error.fact),)), None
    return VerifyReport(tuple(found), signer=trust.signer_line()), statement


def _compare(subject: Any, statement: ExportStatement, artifact: Path) -> Sequence[Problem]:
    from maestro_dagster.costs.export import hash_file, measure_export
    from maestro_dagster.evidence.problem import Problem

    digest = {"sha256": statement.digest.removeprefix("sha256:")}
    if subject != [{"name": statement.file, "digest": digest}]:
        raise EvidenceError("the statement names another file than its figures", code="statement-invalid")
    try:
        actual = hash_file(artifact)
    except OSError as error:
        raise EvidenceError(
            f"the file cannot be read: {error.strerror}", place=str(artifact), code="artifact-unreadable"
        ) from error
    if actual != statement.digest:
        fact = f"its digest is {actual}, signed was {statement.digest}"
        return (Problem("digest-mismatch", str(artifact), fact),)
    rows, nano, unknown = measure_export(artifact, statement.format)
    signed = (statement.rows, statement.sum_nano, 0 if statement.left_out_of_file else statement.unknown)
    if (rows, nano, unknown) != signed:
        return (
            Problem("sum-mismatch", str(artifact), "the file does not hold the figures that were signed"),
        )
    return ()


def find_signer(project: Project) -> Signer:
    """Raises KeyMissingError, which says how to export without a signature."""
    from maestro_dagster.evidence.key import load_signer

    try:
        return load_signer(project.keys)
    except KeyMissingError as error:
        raise KeyMissingError(
            error.fact, place=error.place, remedy=f"{error.remedy}; or export with --no-sign",
            code=error.error_code,
        ) from error  # fmt: skip


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all. Raises CostError (`disk-full`, `export-write`)."""
    from maestro_dagster.costs.export import export_error

    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise export_error(error, path) from error
    finally:
        draft.unlink(missing_ok=True)
