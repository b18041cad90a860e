"""What `maestro doctor` looks at. Each check says what it found and what to do; none changes anything
but a few bytes that prove that the store can be written.
"""

from __future__ import annotations

import difflib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from maestro_dagster.engine.stop import hide_error
from maestro_dagster.errors import KeyMissingError, MaestroError
from maestro_dagster.project.check_store import Answer, ask_artifacts, ask_evidence, ask_lake
from maestro_dagster.project.redaction import open_redactor
from maestro_dagster.project.root import Project
from maestro_dagster.project.settings import Settings, variable

Status = Literal["ok", "warning", "error"]

_GIB = 1024**3
_LOW_SPACE = _GIB
_NO_SPACE = 100 * 1024**2
_DAY = 86400.0
# Variables that are no settings, and the prefix of secrets.
_OTHER_VARIABLES = ("MAESTRO_PROJECT", "MAESTRO_DEBUG", "MAESTRO_SOAK", "MAESTRO_CORPUS")
_SECRET_PREFIX = "MAESTRO_SECRET_"  # noqa: S105 - the beginning of a name


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `remedy` is empty when there is nothing to do."""

    check: str
    status: Status
    fact: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_machine() -> Iterator[Finding]:
    """What does not depend on a project."""
    yield from _guarded("python", _check_python)
    yield from _guarded("git", _check_git)


def check_project(project: Project, environment: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Everything about a project. A check that raises becomes a finding of its own."""
    found = os.environ if environment is None else environment
    checks: dict[str, Callable[[], Finding]] = {
        "settings": lambda: _check_variables(found),
        "cage": lambda: _check_cage(project),
        "key": lambda: _check_key(project),
        "packs": lambda: _check_packs(project),
        "rates": lambda: _check_rates(project),
        "budgets": lambda: _check_budgets(project),
        "models": lambda: _check_models(project),
        "forges": lambda: _check_forges(project),
        "flows": lambda: _check_flows(project),
        "space": lambda: _check_space(project),
        "store": lambda: _check_place("store", project, ask_artifacts),
        "evidence": lambda: _check_place("evidence", project, ask_evidence),
        "lake": lambda: _check_place("lake", project, ask_lake),
        "journal": lambda: _check_journal(project),
        "inbox": lambda: _check_inbox(project),
        "dagster": lambda: _check_dagster(project),
        "advisories": lambda: _check_advisories(project),
    }
    for name, check in checks.items():
        yield from _guarded(name, check)


def _guarded(name: str, check: Callable[[], Finding]) -> Iterator[Finding]:
    try:
        yield check()
    except MaestroError as error:
        fact = f"{error.fact} ({error.place})" if error.place else error.fact
        yield Finding(name, "error", fact, error.remedy)
    except (OSError, ImportError) as error:
        yield Finding(name, "error", f"{type(error).__name__}: {error}", "repair it, then ask again")


def _check_python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < (3, 11):  # noqa: UP036 - a wheel can be forced into an older Python
        return Finding("python", "error", f"Python {version}", "use Python 3.11 or newer")
    return Finding("python", "ok", f"Python {version}")


def _check_git() -> Finding:
    git = shutil.which("git")
    if git is None:
        return Finding("git", "error", "git is not installed", "install git; pushes and checkouts need it")
    done = subprocess.run([git, "--version"], capture_output=True, text=True, timeout=10, check=False)
    return Finding("git", "ok", done.stdout.strip() or "git")


def _check_variables(environment: Mapping[str, str]) -> Finding:
    known = [variable(row["name"]) for row in Settings().table()]
    for name in sorted(environment):
        if not name.startswith("MAESTRO_") or name.startswith(_SECRET_PREFIX):
            continue
        if name not in known and name not in _OTHER_VARIABLES:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "`maestro settings --json` names the variables"
            return Finding("settings", "warning", f"the variable {name} means nothing", hint)
    return Finding("settings", "ok", "every setting is valid")


def _check_cage(project: Project) -> Finding:
    from maestro_dagster.sandbox.cage import open_cage

    refusal = open_cage(hidden=(project.home,)).refusal()
    if refusal is None:
        return Finding("cage", "ok", "foreign code can be caged")
    remedy = "allow unprivileged user namespaces; flows that run foreign code are denied until then"
    return Finding("cage", "error", f"no cage on this machine: {refusal}", remedy)


def _check_key(project: Project) -> Finding:
    from maestro_dagster.evidence.key import load_signer

    try:
        signer = load_signer(project.keys)
    except KeyMissingError as error:
        return Finding("key", "error", error.fact, error.remedy)
    return Finding("key", "ok", f"{signer.algorithm} key, hint {signer.hint}")


def _check_packs(project: Project) -> Finding:
    from maestro_dagster.project.trial import try_packs

    count, violation = try_packs(project)
    if violation is not None:
        return Finding("packs", "error", violation.message, violation.remedy)
    return Finding("packs", "ok", f"{count} packs load and answer ({project.settings.policy_engine})")


def _check_rates(project: Project) -> Finding:
    from maestro_dagster.costs.rate import RateCard

    RateCard.load(project.root / "resources" / "rates.yaml")
    return Finding("rates", "ok", "the rate card is readable")


def _check_budgets(project: Project) -> Finding:
    from maestro_dagster.project.services import open_budgets

    tree = open_budgets(project)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    if not tree.book.chapters:
        return Finding("budgets", "ok", "no budgets but those of flows and requests")
    if tree.book.chapter(today) is None:
        first = tree.book.chapters[0].valid_from
        return Finding("budgets", "warning", f"no budget holds before {first}", "date one earlier")
    return Finding("budgets", "ok", f"the budgets are readable; {tree.counter.check()}")


def _check_models(project: Project) -> Finding:
    from maestro_dagster.llm.catalogue import read_catalogue

    count = len(read_catalogue(project.root / "resources" / "models.yaml"))
    return Finding("models", "ok", f"{count} models, and the built-in one")


def _check_forges(project: Project) -> Finding:
    from maestro_dagster.project.clone import check_clone
    from maestro_dagster.project.report import check_reporting
    from maestro_dagster.project.webhook import ForgeFile, check_secrets

    if not (project.root / "resources" / "forges.yaml").exists():
        return _check_no_forges(project)
    forges = ForgeFile(project).read()
    for forge in forges:
        if fault := check_clone(forge) or check_secrets(project, forge):
            return Finding("forges", fault.status, fault.fact, fault.remedy)
    destinations, lost = check_reporting(project)
    if lost:
        return Finding(
            "forges",
            "warning",
            f"{lost} reports to forges were given up",
            "see `maestro report --state given-up`",
        )
    told = f", {destinations} are reported to" if destinations else ""
    return Finding("forges", "ok", f"{len(forges)} repositories send webhooks{told}")


def _check_no_forges(project: Project) -> Finding:
    from maestro_dagster.project.intake import knows_webhooks

    if knows_webhooks(project):
        return Finding(
            "forges",
            "error",
            "webhooks came in before, and resources/forges.yaml is not there",
            "put it back; with `repositories: []` in it no repository is known",
        )
    return Finding("forges", "ok", "no resources/forges.yaml, so no repository sends webhooks")


def _check_flows(project: Project) -> Finding:
    from maestro_dagster.manifest.read import read_flow
    from maestro_dagster.steps.catalogue import load_catalogue

    count = 0
    for path in project.flow_files():
        read_flow(path, load_catalogue())
        count += 1
    project.flows()
    return Finding("flows", "ok", f"{count} flows are valid")


def _check_space(project: Project) -> Finding:
    folder = project.home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    shown = f"{free / _GIB:.1f} GiB free for {project.home}"
    remedy = "free space, or move the state with MAESTRO_HOME"
    if free < _NO_SPACE:
        return Finding("space", "error", shown, remedy)
    return Finding("space", "warning", shown, remedy) if free < _LOW_SPACE else Finding("space", "ok", shown)


def _check_place(name: str, project: Project, ask: Callable[[Project], Answer]) -> Finding:
    try:
        fact, remedy = ask(project)
    except MaestroError as error:
        hide_error(error, open_redactor(project))  # a store may quote what it was asked with
        raise
    return Finding(name, "error" if remedy else "ok", fact, remedy)


def _check_journal(project: Project) -> Finding:
    if project.settings.database:
        return _check_database(project)
    if not project.journal.exists():
        return Finding("journal", "ok", "no run yet")
    # Read-only: a doctor must not upgrade, recover or lock what it looks at.
    if not os.access(project.home, os.W_OK) or not os.access(project.journal, os.W_OK):
        return Finding(
            "journal",
            "error",
            f"the journal cannot be written ({project.journal}): nothing can run here",
            "give this user the right to write there, or mount it for writing",
        )
    try:
        with closing(
            sqlite3.connect(f"{project.journal.as_uri()}?mode=ro", uri=True, timeout=5)
        ) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            runs = connection.execute("SELECT count(*) FROM run").fetchone()[0]
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(
            ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_FULL")
        ):
            return Finding(
                "journal",
                "error",
                f"the journal cannot be read: {error} ({project.journal})",
                "check the owner and mode of the state folder, and the space on its disk",
            )
        found, runs = str(error), 0
    if found != "ok":
        return Finding("journal", "error", f"the journal is damaged: {found}", "restore it from a backup")
    return Finding("journal", "ok", f"the journal is sound, {runs} runs")


def _check_database(project: Project) -> Finding:
    """Whether the server answers and has the tables. An empty database gets them, as by any command."""
    from maestro_dagster.project.database import check_database, open_journal

    try:
        check_database(project)
        journal = open_journal(project)
    except MaestroError as error:
        return Finding("journal", "error", error.fact, error.remedy)
    return Finding("journal", "ok", f"the journal lies in {journal.place}")


def _check_inbox(project: Project) -> Finding:
    from maestro_dagster.project.check_inbox import check_inbox

    return check_inbox(project)


def _check_dagster(project: Project) -> Finding:
    folder = project.home / "dagster"
    other = os.environ.get("DAGSTER_HOME")
    if other and Path(other).resolve() != folder:
        fact = f"DAGSTER_HOME is {other}, while the project uses {folder}"
        return Finding("dagster", "warning", fact, "unset DAGSTER_HOME, or your tools show other runs")
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Finding(
            "dagster", "error", f"{nearest} cannot be written", "give this user the right to write there"
        )
    return Finding("dagster", "ok", f"Dagster's home is {folder}")


def _check_advisories(project: Project) -> Finding:
    records = list(project.advisories.rglob("*.json")) if project.advisories.is_dir() else []
    refresh = "fetch OSV records into that folder"
    if not records:
        return Finding("advisories", "warning", f"no advisories in {project.advisories}: scans deny", refresh)
    age = (time.time() - max(path.stat().st_mtime for path in records)) / _DAY
    shown = f"{len(records)} advisories, the newest file is {age:.0f} days old"
    limit = project.settings.advisories_max_age_days
    if limit is None:
        return Finding(
            "advisories", "warning", f"{shown}; no age limit is set", "set advisories_max_age_days"
        )
    if age > limit:
        return Finding("advisories", "error", f"{shown}; the limit is {limit}", refresh)
    return Finding("advisories", "ok", shown)
