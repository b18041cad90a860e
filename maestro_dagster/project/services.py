"""From settings to the neighbours of an engine. Everything heavy is imported when it is opened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from maestro_dagster.project.database import name_scope, open_journal
from maestro_dagster.project.root import Project

if TYPE_CHECKING:
    from collections.abc import Callable

    from maestro_dagster.costs.budget import BudgetTree
    from maestro_dagster.costs.counter import Counter
    from maestro_dagster.costs.interface import UsageSpool
    from maestro_dagster.engine.engine import Engine
    from maestro_dagster.engine.services import Services
    from maestro_dagster.errors import KeyMissingError
    from maestro_dagster.evidence.interface import Signer
    from maestro_dagster.llm.interface import ModelHub
    from maestro_dagster.policy.interface import PolicyEngine
    from maestro_dagster.steps.interface import ProjectView
    from maestro_dagster.telemetry.redaction import Redactor

    Find = Callable[[str], str | None]


def open_engine(project: Project) -> Engine:
    """The engine of a project."""
    from maestro_dagster.engine.engine import Engine

    return Engine(open_services(project))


def open_services(project: Project) -> Services:
    """All that the engine needs. Raises MaestroError where something of the project cannot be used.

    A key that is missing or cannot be used is no error here: `signer` is None then, `key_error` says why,
    and admission refuses.
    """
    from maestro_dagster.artifacts.store import open_store
    from maestro_dagster.costs.rate import RateCard
    from maestro_dagster.engine.services import Services
    from maestro_dagster.policy.document import build_document
    from maestro_dagster.project.pin import ProjectPins
    from maestro_dagster.project.redaction import open_redactor
    from maestro_dagster.project.removal import open_subjects
    from maestro_dagster.project.secret import secret_source
    from maestro_dagster.sandbox.cage import open_cage
    from maestro_dagster.steps.catalogue import load_catalogue
    from maestro_dagster.steps.interface import Network

    settings = project.settings
    signer, key_error = _find_signer(project)
    redactor = open_redactor(project)
    secrets = _watched(secret_source(project.home), redactor)
    return Services(
        store=open_store(project.artifact_store),
        journal=open_journal(project),
        policy=open_policy(project),
        signer=signer,
        key_error=key_error,
        hub=open_models(project, secrets, redactor),
        cage=open_cage(hidden=(project.home,)),
        catalogue=load_catalogue(),
        rates=RateCard.load(project.root / "resources" / "rates.yaml"),
        spool=open_spool(project, redactor),
        project=view_project(project),
        network=Network(allow_private=settings.network_allow_private),
        evidence_folder=project.evidence,
        evidence_url=project.evidence_url,
        scratch_folder=project.home / "scratch",
        log_folder=project.home / "logs",
        policy_document=build_document,
        tenant=settings.tenant,
        env=settings.env,
        budgets=open_budgets(project, redactor),
        project_name=settings.project_name,
        subject_of=lambda person: open_subjects(project).surrogate_for(settings.tenant, person),
        secrets=secrets,
        redactor=redactor,
        policy_settings=policy_settings(project),
        pins=ProjectPins(project.root),
        region=settings.request_region,
    )


def open_budgets(project: Project, redactor: Redactor | None = None, *, anew: bool = False) -> BudgetTree:
    """The tree of budgets. Its file is read and its counter opened when they are needed.

    With `anew` counting begins at zero where the file of the counters is gone.
    """
    from maestro_dagster.costs.budget import BudgetTree
    from maestro_dagster.project.redaction import hide_database

    settings = project.settings
    url = settings.budget_database or settings.database
    hide_database(url, redactor)

    def open_counter() -> Counter:
        if url:
            from maestro_dagster.costs.counter_postgres import PostgresCounter

            return PostgresCounter(url, dagster=not settings.budget_database)
        from maestro_dagster.costs.counter_sqlite import SqliteCounter

        return SqliteCounter(project.home / "budgets.sqlite", anew=anew)

    return BudgetTree(project.budgets, open_counter, tenant=settings.tenant, project=settings.project_name)


def open_spool(project: Project, redactor: Redactor | None = None) -> UsageSpool:
    """Where usage waits for its day's compaction: the project's folder, or its database, connected on use.

    With a database, what the folder still has is read and compacted too.
    """
    from maestro_dagster.costs.spool import Spool

    settings, folder = project.settings, Spool(project.spool)
    if not settings.database:
        return folder
    from maestro_dagster.costs.joined_spool import JoinedSpool
    from maestro_dagster.costs.postgres_spool import PostgresSpool
    from maestro_dagster.project.redaction import hide_database

    hide_database(settings.database, redactor)
    return JoinedSpool(PostgresSpool(settings.database, name_scope(project)), folder)


def open_policy(project: Project) -> PolicyEngine:
    from maestro_dagster.policy.engine import open_policy_engine

    settings = project.settings
    return open_policy_engine(project.policies, kind=settings.policy_engine, command=settings.opa_command)


def policy_settings(project: Project) -> dict[str, object]:
    """The switches that packs may read, under `input.settings`."""
    return {"pii_allow_stricter_tier": project.settings.pii_allow_stricter_tier}


def _find_signer(project: Project) -> tuple[Signer | None, KeyMissingError | None]:
    """The project's signer, or why there is none: nobody is told that a key is missing which is there."""
    from maestro_dagster.errors import KeyMissingError
    from maestro_dagster.evidence.key import load_signer

    try:
        return load_signer(project.keys), None
    except KeyMissingError as error:
        return None, error


def open_models(project: Project, secrets: Find | None = None, redactor: Redactor | None = None) -> ModelHub:
    """The models of a project. A provider's key is a secret like any other: the redactor learns it."""
    from maestro_dagster.llm.hub import open_hub
    from maestro_dagster.project.secret import secret_source
    from maestro_dagster.telemetry.redaction import Redactor

    find = secrets or secret_source(project.home)
    return open_hub(
        project.root / "resources" / "models.yaml",
        project.settings.model_base_url,
        # A provider's key may also stand where the provider's own tools look for it.
        secret=_watched(lambda name: find(name) or os.environ.get(name), redactor or Redactor()),
    )


def _watched(find: Find, redactor: Redactor) -> Find:
    """The same source; whatever it hands out is hidden from then on, in every step of the process."""

    def look(name: str) -> str | None:
        value = find(name)
        if value is not None:
            redactor.add(value)
        return value

    return look


def view_project(project: Project) -> ProjectView:
    """What steps may see of the project."""
    from maestro_dagster.steps.interface import ProjectView

    return ProjectView(
        root=project.root,
        cache=project.home / "cache",
        advisories=project.advisories,
        advisories_max_age_days=project.settings.advisories_max_age_days,
    )
