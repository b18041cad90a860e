"""The command `maestro`. Knows the names of the commands; each is imported when it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from maestro_dagster.cli.lazy import LazyGroup, Row

if TYPE_CHECKING:
    from pathlib import Path

    from maestro_dagster.errors import MaestroError

_CLI = "maestro_dagster.cli"

COMMANDS = {
    "init": Row(f"{_CLI}.init:command", "Make a new project and its key."),
    "flow": Row(f"{_CLI}.flow:command", "Lint, show, digest, convert or draw a flow."),
    "schema": Row(f"{_CLI}.schema:command", "Print the JSON Schema of a flow."),
    "plan": Row(f"{_CLI}.plan:command", "Say what a run would do and cost, and whether it is allowed."),
    "run": Row(f"{_CLI}.run:command", "Run a flow and wait for its evidence."),
    "status": Row(f"{_CLI}.status:command", "Show a run, or the newest runs."),
    "logs": Row(f"{_CLI}.logs:command", "Print the log lines of a run."),
    "trace": Row(f"{_CLI}.trace:command", "Draw what a run spent its time on."),
    "watch": Row(f"{_CLI}.watch:command", "Follow a run until it ends."),
    "cancel": Row(f"{_CLI}.cancel:command", "Stop a run; it still gets its receipt."),
    "retry": Row(f"{_CLI}.retry:command", "Resume a run, keeping what is done."),
    "verify": Row(f"{_CLI}.verify:command", "Check an evidence bundle, offline."),
    "evidence": Row(f"{_CLI}.evidence:command", "Export the evidence of a run."),
    "backup": Row(f"{_CLI}.backup:command", "Back the project up while it runs."),
    "restore": Row(f"{_CLI}.restore:command", "Restore a backup, every receipt verified."),
    "recipe": Row(f"{_CLI}.recipe:command", "List the shipped flows, or add one to the project."),
    "policy": Row(f"{_CLI}.policy:command", "Evaluate or test the policy packs."),
    "report": Row(f"{_CLI}.report:command", "Show what forges were told of runs, and what waits."),
    "events": Row(f"{_CLI}.events:command", "Show events that wait to become runs, or drop them."),
    "migrate": Row(f"{_CLI}.migrate:command", "Move this project into its PostgreSQL."),
    "hook": Row(f"{_CLI}.hook:command", "Let a Git repository tell the project of pushes."),
    "cost": Row(f"{_CLI}.cost:command", "Report or export what runs cost."),
    "settings": Row(f"{_CLI}.settings:command", "Print the settings and where each comes from."),
    "doctor": Row(f"{_CLI}.doctor:command", "Check that this machine and project can run flows."),
    "dev": Row(f"{_CLI}.dev:command", "Start the UI and the loop that runs what is pushed."),
    "demo": Row(f"{_CLI}.demo:command", "Show a push become a verified bundle, from end to end."),
    "template": Row(f"{_CLI}.template:command", "The same as `flow`, under its older name.", hidden=True),
}

EPILOG = """\b
Exit codes:
  0  succeeded, allowed, valid
  1  failed, invalid, refused
  2  called wrongly, or a key is missing
  3  denied by policy or budget
  4  cancelled
  5  waiting at a gate

\b
Example:
  maestro init shop && cd shop && maestro run hello
"""


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"maestro {version('maestro-dagster')}")
    ctx.exit()


@click.group(
    cls=LazyGroup, table=COMMANDS, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
              help="Print the version and exit.")  # fmt: skip
@click.pass_context
def command(ctx: click.Context, debug: bool) -> None:
    """Flows as Dagster assets: governed, signed, priced, provable offline."""
    ctx.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script. Always ends the process with one of the documented codes."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    from maestro_dagster.cli.output import OutputFailedError, ReaderGoneError, guard_stdout, mute_stdout

    guard_stdout()
    code = run_command(arguments)
    try:
        sys.stdout.flush()
    except (ReaderGoneError, BrokenPipeError):
        mute_stdout()
    except OutputFailedError as error:
        code = code or _say(error)
    sys.exit(code)


def run_command(arguments: list[str]) -> int:  # noqa: PLR0911 - one for each way to end
    """Runs one command line; prints its error, if any; gives the exit code."""
    from maestro_dagster.cli.output import OutputFailedError, ReaderGoneError, mute_stdout

    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    try:
        result: Any = command.main(args=arguments, prog_name="maestro", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return 130
    except (ReaderGoneError, BrokenPipeError):
        mute_stdout()
        return 0
    except OutputFailedError as error:
        return _say(error)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:  # noqa: BLE001 - the last net: nobody sees a traceback without asking
        try:
            return _report(error, as_json="--json" in own, debug=_wants_debug(own))
        except (ReaderGoneError, OutputFailedError, OSError):
            mute_stdout()
            return 1
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _wants_debug(own: list[str]) -> bool:
    """`--debug` is an option of `maestro` itself, so it stands before the command's name."""
    for argument in own:
        if argument == "--debug":
            return True
        if not argument.startswith("-"):
            break
    return os.environ.get("MAESTRO_DEBUG") == "1"


def _report(error: Exception, *, as_json: bool, debug: bool) -> int:
    from maestro_dagster.cli.output import print_error
    from maestro_dagster.engine.disk import find_full_disk
    from maestro_dagster.errors import MaestroError, UsageError

    if debug and not isinstance(error, click.ClickException):
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, click.ClickException):
        place = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        remedy = f"see `{place} --help`" if place else ""
        error = UsageError(error.format_message().rstrip("."), place=place, remedy=remedy)
    elif (full := find_full_disk(error, _state_folder())) is not None:
        error = full
    elif not isinstance(error, MaestroError):
        error = MaestroError(
            f"unexpected {type(error).__name__}: {error}".replace("\n", " "),
            remedy="run again as `maestro --debug ...` and report what it prints",
            code="internal",
        )
    return print_error(error, as_json=as_json)


def _state_folder() -> Path | None:
    """For the place of an error that names none."""
    from maestro_dagster.errors import MaestroError
    from maestro_dagster.project.root import find_project

    try:
        return find_project().home
    except (MaestroError, OSError):
        return None


def _say(error: MaestroError) -> int:
    """An error of the output itself, so on the other one."""
    from maestro_dagster.cli.output import mute_stdout, print_error

    mute_stdout()
    return print_error(error, as_json=False)


if __name__ == "__main__":
    main()
