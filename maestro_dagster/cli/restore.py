"""`maestro restore`: a project's state out of a backup, every digest and receipt verified first."""

from __future__ import annotations

from pathlib import Path

import click

from maestro_dagster.cli.output import emit, json_option
from maestro_dagster.cli.passphrase import passphrase_option, read_passphrase
from maestro_dagster.cli.progress import show_progress


@click.command(
    epilog="""\b
Believed are keys given with --key, those of the setting trusted_keys, the project's own, and the one that
the passphrase opens. The passphrase is the first line of the file, or MAESTRO_SECRET_BACKUP_PASSPHRASE.

\b
Exit codes:
  0  everything holds, and is in its place
  1  refused; nothing of the project has changed
  2  no key to judge by

\b
Example:
  maestro restore /mnt/backups/shop --key maestro.pub.pem
  maestro restore s3://bucket/shop --passphrase-file ~/shop.passphrase
  maestro restore /mnt/backups/shop --check
  maestro restore /mnt/backups/shop --evidence RUN
"""
)
@click.argument("target")
@click.option("--backup", metavar="ID", help="Which backup; the newest if it is not given.")
@click.option("--key", "keys", type=click.Path(path_type=Path), multiple=True,
              help="Public key (PEM) to trust; may be repeated.")  # fmt: skip
@passphrase_option
@click.option("--check", is_flag=True, help="Verify all of the backup and write nothing.")
@click.option("--evidence", "run_id", metavar="RUN",
              help="Only the evidence of RUN, into the project as it is.")  # fmt: skip
@json_option
def command(
    target: str,
    backup: str | None,
    keys: tuple[Path, ...],
    passphrase_file: Path | None,
    check: bool,
    run_id: str | None,
    as_json: bool,
) -> int:
    """Restore the project's state from TARGET into an empty state folder.

    The folder may hold keys and secrets, and nothing else. Flows, policies and settings are the project's
    files and come from its repository. Stopped at any moment, the same command goes on to the end.
    """
    from maestro_dagster.project.backup_object import plain_full
    from maestro_dagster.project.restore import restore
    from maestro_dagster.project.root import find_project

    passphrase, say = read_passphrase(passphrase_file), show_progress()
    if run_id is not None:
        from maestro_dagster.project.restore_evidence import restore_evidence

        found = restore_evidence(
            find_project(), target, run_id,
            backup=backup, keys=keys, passphrase=passphrase, check=check, say=say,
        )  # fmt: skip
        done = "restored" if found.written else "verified"
        emit(found.to_json(), as_json, f"{done} {found.place}: as in the backup {found.backup}")
        return 0
    with plain_full("maestro restore"):
        report = restore(
            find_project(unfinished=True),
            target,
            backup=backup,
            keys=keys,
            passphrase=passphrase,
            check=check,
            say=say,
        )
    missing = f"; not in the backup: {', '.join(report.left_out)}" if report.left_out else ""
    ended = f", {len(report.adopted)} ended later, as their evidence tells" if report.adopted else ""
    for each in report.unplaced:
        click.echo(f"warning: {each} is not restored, its folder can only be read", err=True)
    for each in report.lost:
        click.echo(f"warning: the evidence of the run {each} was lost before the backup was made", err=True)
    done = "restored" if report.written else "verified"
    emit(
        report.to_json(),
        as_json,
        f"{done} {report.backup}: {report.files} files, {report.size} bytes, every digest right; "
        f"{report.receipts} receipts with {report.claims} claims verify; {report.open_runs} runs had not "
        f"ended{ended}{missing}",
    )
    return 0
