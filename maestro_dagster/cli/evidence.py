"""`maestro evidence`: hand out the proof of a run, whole or of one claim."""

from __future__ import annotations

from pathlib import Path

import click

from maestro_dagster.cli.output import emit, json_option


@click.group()
def command() -> None:
    """Export the evidence of a run."""


@command.command(
    epilog="""\b
Example:
  maestro evidence export RUN -o evidence.zip
  maestro evidence export RUN --claim build -o build.proof.json
"""
)
@click.argument("run")
@click.option("--claim", "step", metavar="STEP", help="Only the proof of this step's claim, as JSON.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write it.")
@json_option
def export(run: str, step: str | None, output: Path | None, as_json: bool) -> int:
    """Write the bundle of RUN, or with --claim a small proof of one step's claim.

    The bundle is copied byte for byte: the same run exports the same bytes each time.
    """
    data = _read_bundle(run)
    if step is not None:
        from maestro_dagster.evidence.export import export_claim

        data = export_claim(data, step)
    target = output or Path(f"{run}.zip" if step is None else f"{run}-{step}.proof.json")
    _write(target, data)
    from maestro_dagster.manifest.canonical import digest_bytes

    told = {"run_id": run, "file": str(target), "size": len(data), "digest": digest_bytes(data)}
    emit(told | ({"claim": step} if step else {}), as_json, text=f"{target} ({len(data)} bytes)")
    return 0


def _read_bundle(run: str) -> bytes:
    from maestro_dagster.evidence.store import EvidenceStore
    from maestro_dagster.project.root import find_project

    project = find_project()
    return EvidenceStore(project.evidence, project.evidence_url).read(run)


def _write(target: Path, data: bytes) -> None:
    """Whole or not at all: written aside in the same folder, then renamed."""
    import os
    from tempfile import NamedTemporaryFile

    from maestro_dagster.errors import EvidenceError

    try:
        with NamedTemporaryFile(dir=target.parent, prefix=".maestro-", delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).chmod(0o644)
                Path(file.name).replace(target)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise EvidenceError(
            f"the file cannot be written: {error.strerror}",
            place=str(target),
            remedy="choose a folder that exists and can be written to, with -o",
            code="export-unwritable",
        ) from error
