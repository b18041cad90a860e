"""Ask the packs about a harmless flow: whether they load and answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maestro_dagster.project.root import Project

if TYPE_CHECKING:
    from maestro_dagster.policy.interface import Violation

# Faults of a pack itself, in contrast to what it has against the flow.
_FAULTS = ("pack-", "polic")


def try_packs(project: Project) -> tuple[int, Violation | None]:
    """How many packs there are, and the first that cannot be used. Raises PolicyError."""
    from maestro_dagster.manifest.model import Flow
    from maestro_dagster.policy.document import build_document
    from maestro_dagster.project.services import open_policy, policy_settings

    flow = Flow.model_validate(
        {"name": "doctor", "version": "1.0.0", "tasks": [{"id": "a", "uses": "pkg:text/template@1.0.0"}]}
    )
    document = build_document(
        flow,
        request={},
        estimated_cost_usd="0",
        budget_usd=None,
        effects={},
        now="2024-01-01T00:00:00Z",
        settings=policy_settings(project),
    )
    engine = open_policy(project)
    try:
        decision = engine.evaluate(document)
    finally:
        engine.close()
    faults = (found for found in decision.violations if found.rule.startswith(_FAULTS))
    return len(decision.verdicts), next(faults, None)
