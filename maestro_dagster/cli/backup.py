"""`maestro backup`: a running project, whole and of one moment, in a folder or an object store."""

from __future__ import annotations

from pathlib import Path

import click

from maestro_dagster.cli.output import emit, json_option
from maestro_dagster.cli.passphrase import passphrase_option, read_passphrase
from maestro_dagster.cli.progress import show_progress


@click.command(
    epilog="""\b
The passphrase (12 characters or more) is the first line of the file, or the environment variable
MAESTRO_SECRET_BACKUP_PASSPHRASE. It locks the private key and the secrets, nothing else.

\b
Exit codes:
  0  the backup is whole
  1  nothing was written; or artifacts are damaged or evidence is lost, and it was made without them

\b
Example:
  maestro backup /mnt/backups/shop
  maestro backup s3://bucket/shop --passphrase-file ~/shop.passphrase
  maestro backup /mnt/backups/shop --list
"""
)
@click.argument("target")
@passphrase_option
@click.option("--leave-out", type=click.Choice(["artifacts", "lake"]), multiple=True,
              help="What has a copy of its own; may be repeated.")  # fmt: skip
@click.option("--list", "listing", is_flag=True, help="Only name the backups that TARGET has.")
@json_option
def command(
    target: str, passphrase_file: Path | None, leave_out: tuple[str, ...], listing: bool, as_json: bool
) -> int:
    """Write a backup of the project to TARGET, a folder or the URL of an object store.

    Nothing has to stop. Backups in one TARGET share what they have in common. Each is signed by the
    project's key and names the digest of every file.
    """
    from maestro_dagster.project.backup import back_up
    from maestro_dagster.project.backup_object import plain_full
    from maestro_dagster.project.backup_target import list_backups
    from maestro_dagster.project.root import find_project

    if listing:
        found = list(list_backups(target))
        emit({"backups": found}, as_json, "\n".join(found) or "there is no backup here")
        return 0
    passphrase = read_passphrase(passphrase_file)
    with plain_full("maestro backup"):
        report = back_up(
            find_project(), target, passphrase=passphrase, leave_out=leave_out, say=show_progress()
        )
    if passphrase is None:
        click.echo(
            "warning: without a passphrase private keys and secrets are not in the backup: keep them apart",
            err=True,
        )
    for digest in report.damaged:
        click.echo(f"warning: the artifact {digest} is damaged in the project's store", err=True)
    for run_id in report.lost:
        click.echo(
            f"warning: the evidence of the run {run_id} is missing or changed: "
            f"`maestro restore {target} --evidence {run_id}` puts it back from an older backup",
            err=True,
        )
    for run_id in report.put_back:
        click.echo(f"note: the evidence of the run {run_id} was put back from this machine", err=True)
    text = (
        f"backup {report.id}: {report.files} files, {report.size} bytes ({report.new_bytes} new), "
        f"{report.runs} runs, {report.bundles} bundles"
    )
    emit(report.to_json(), as_json, text)
    return 1 if report.damaged or report.lost else 0
