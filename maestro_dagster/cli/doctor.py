"""`maestro doctor`: whether this machine and this project can run flows."""

from __future__ import annotations

import click

from maestro_dagster.cli.output import emit, json_option, print_table

EXAMPLE = """\b
Example:
  maestro doctor
"""


@click.command(name="doctor", epilog=EXAMPLE)
@json_option
def command(as_json: bool) -> int:
    """Check the machine and the project; exit 1 when something is wrong."""
    from maestro_dagster.errors import MaestroError
    from maestro_dagster.project.check import Finding, check_machine, check_project
    from maestro_dagster.project.root import find_project

    findings = list(check_machine())
    try:
        findings += check_project(find_project())
    except MaestroError as error:
        findings.append(Finding("project", "error", f"{error.fact} ({error.place})", error.remedy))
    wrong = any(finding.status == "error" for finding in findings)
    if as_json:
        emit({"ok": not wrong, "checks": [finding.to_json() for finding in findings]}, as_json=True)
    else:
        rows = [(finding.check, finding.status, finding.fact, finding.remedy or None) for finding in findings]
        print_table(("check", "status", "found", "remedy"), rows)
    return int(wrong)
