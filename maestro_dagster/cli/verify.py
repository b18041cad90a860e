"""`maestro verify`: checks evidence offline, by keys that the caller trusts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from maestro_dagster.cli.output import emit, json_option

if TYPE_CHECKING:
    from maestro_dagster.costs.statement import ExportStatement
    from maestro_dagster.evidence.keyless import KeylessTrust
    from maestro_dagster.evidence.trust import Trust
    from maestro_dagster.evidence.verify import VerifyReport

_FILE = click.Path(path_type=Path)


@click.command(
    epilog="""\b
Without --key the keys that the project trusts are used; a key in the bundle never is.

\b
Exit codes:
  0  everything holds
  1  refused, with the problems found
  2  no key to judge by

\b
Example:
  maestro verify .maestro/evidence/RUN.zip --key maestro.pub.pem
  maestro verify brief.txt.sigstore.json --artifact brief.txt --key maestro.pub.pem
  maestro verify january.parquet.sigstore.json --artifact january.parquet
"""
)
@click.argument("location", metavar="ZIP")
@click.option("--key", "keys", type=_FILE, multiple=True, help="Public key (PEM) to trust; may be repeated.")
@click.option("--trusted-root", type=_FILE, help="Sigstore trusted root, to judge a keyless signature.")
@click.option("--identity", default="", help="Who must have signed without a key, as in the certificate.")
@click.option("--issuer", default="", help="Who must have vouched for that identity (URL).")
@click.option("--artifact", type=_FILE, help="File that a single signed statement must speak of.")
@json_option
def command(
    location: str,
    keys: tuple[Path, ...],
    trusted_root: Path | None,
    identity: str,
    issuer: str,
    artifact: Path | None,
    as_json: bool,
) -> int:
    """Check an evidence bundle (or a proof of one claim, or a signed statement) offline.

    ZIP is a file, or the URL (`s3://bucket/evidence/RUN.zip`) of an object store.
    """
    keyless = None
    if trusted_root is not None or identity or issuer:
        if keys:
            raise click.UsageError("--key and --trusted-root exclude each other")
        keyless = (trusted_root or Path("trusted_root.json"), identity, issuer)
    statement = None
    with _on_disk(location) as file:
        judge = (file, artifact, () if keyless else _trusted_keys(keys), keyless)
        if _is_export(file):
            report, statement = _judge_export(*judge)
        else:
            report = _judge(*judge)
    figures = {"export": statement.to_json()} if statement else {}
    emit(report.to_json() | figures, as_json, text=lambda: _show(report, statement))
    return 0 if report.ok else 1


@contextmanager
def _on_disk(location: str) -> Iterator[Path]:
    """The file of a path; of a URL a copy, for as long as it is looked at."""
    if "://" not in location:
        yield Path(location)
        return
    from tempfile import TemporaryDirectory

    from maestro_dagster.evidence.store import read_location

    with TemporaryDirectory(prefix="maestro-verify-") as folder:
        copy = Path(folder) / (location.rpartition("/")[2] or "evidence.zip")
        copy.write_bytes(read_location(location))
        yield copy


def _trusted_keys(keys: tuple[Path, ...]) -> tuple[bytes, ...]:
    """The given keys, else those of the project around the working directory. Raises KeyMissingError."""
    from maestro_dagster.evidence.key import PUBLIC_NAME, load_trusted

    if keys:
        return load_trusted(keys)
    from maestro_dagster.errors import KeyMissingError, ProjectError
    from maestro_dagster.project.root import find_project

    try:
        project = find_project()
    except ProjectError as error:
        raise KeyMissingError(
            "there is no key to verify with, and none is ever taken from the bundle",
            place=error.place,
            remedy="give a public key with --key, or verify inside a project that trusts one",
        ) from error
    own = project.keys / PUBLIC_NAME
    named = tuple(project.path(text) for text in project.settings.trusted_keys)
    found = named + ((own,) if own.is_file() else ())
    if not found:
        raise KeyMissingError(
            "the project has no key and trusts none",
            place=str(project.root),
            remedy="give a public key with --key, or name one in the setting trusted_keys",
        )
    return load_trusted(found)


def _judge(
    file: Path,
    artifact: Path | None,
    keys: tuple[bytes, ...],
    keyless: tuple[Path, str, str] | None,
) -> VerifyReport:
    from maestro_dagster.evidence.keyless import KeylessTrust
    from maestro_dagster.evidence.trust import KeyTrust
    from maestro_dagster.evidence.verify import read_limited, verify_bundle

    root = KeylessTrust(*keyless) if keyless else None
    trust: Trust = root or KeyTrust(keys)
    data = read_limited(file)
    if artifact is not None:
        return _judge_artifact(data, artifact, keys, root)
    if data[:1] == b"{":
        from maestro_dagster.evidence.export import verify_claim

        return verify_claim(data, trust)
    return verify_bundle(data, trust=trust)


def _is_export(file: Path) -> bool:
    from maestro_dagster.evidence.verify import read_limited
    from maestro_dagster.project.export import STATEMENT_SUFFIX, is_export_statement

    return file.name.endswith(STATEMENT_SUFFIX) and is_export_statement(read_limited(file))


def _judge_export(
    file: Path,
    artifact: Path | None,
    keys: tuple[bytes, ...],
    keyless: tuple[Path, str, str] | None,
) -> tuple[VerifyReport, ExportStatement | None]:
    from maestro_dagster.evidence.keyless import KeylessTrust
    from maestro_dagster.evidence.trust import KeyTrust
    from maestro_dagster.evidence.verify import read_limited
    from maestro_dagster.project.export import STATEMENT_SUFFIX, verify_export

    trust: Trust = KeylessTrust(*keyless) if keyless else KeyTrust(keys)
    beside = file.with_name(file.name.removesuffix(STATEMENT_SUFFIX))
    return verify_export(read_limited(file), artifact or beside, trust)


def _judge_artifact(
    data: bytes, artifact: Path, keys: tuple[bytes, ...], keyless: KeylessTrust | None
) -> VerifyReport:
    from maestro_dagster.errors import EvidenceError
    from maestro_dagster.evidence.attestation import verify_attestation
    from maestro_dagster.evidence.problem import Problem
    from maestro_dagster.evidence.verify import VerifyReport, read_limited

    content = read_limited(artifact)
    try:
        verify_attestation(data, content, keys=keys, keyless=keyless)
    except EvidenceError as error:
        return VerifyReport((Problem(error.error_code, str(artifact), error.fact),))
    return VerifyReport(())


def _show(report: VerifyReport, statement: ExportStatement | None) -> str:
    if report.ok and statement is not None:
        figures = statement.to_json()
        period = figures["period"]
        days = f"{period['first_day']} to {period['last_day']}" if statement.sources else "no day"
        return (
            f"ok: usage of {days}, {statement.rows} rows, {figures['sum_usd']} USD, "
            f"{statement.unknown} events without a price, signed by {report.signer}"
        )
    if report.ok:
        run = f"run {report.run_id} of {report.flow} ({report.run_status}), " if report.run_id else ""
        signer = f", signed by {report.signer}" if report.signer else ""
        return f"ok: {run}{report.claims} claims hold{signer}"
    lines = [str(problem) for problem in report.problems]
    return "\n".join((f"refused: {len(lines)} problems", *lines))
