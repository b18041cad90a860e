"""All that an engine needs from outside, in one frozen bundle. The project room builds it from settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from maestro_dagster.artifacts.interface import ArtifactStore
from maestro_dagster.costs.budget import BudgetTree
from maestro_dagster.costs.interface import UsageSpool
from maestro_dagster.costs.rate import RateCard
from maestro_dagster.errors import KeyMissingError
from maestro_dagster.evidence.interface import Signer
from maestro_dagster.llm.interface import ModelHub
from maestro_dagster.policy.interface import PolicyEngine
from maestro_dagster.sandbox.interface import Cage
from maestro_dagster.steps.interface import Network, ProjectView, StepKind
from maestro_dagster.telemetry.redaction import Redactor

if TYPE_CHECKING:
    from maestro_dagster.engine.journal import Journal
    from maestro_dagster.evidence.store import EvidenceStore


class KindSource(Protocol):
    """Gives the kind behind a pinned package URL. Raises StepError (`kind-unknown`)."""

    def kind(self, uses: str) -> StepKind[Any]: ...


def no_secret(name: str) -> str | None:
    """The default source of secrets: there are none."""
    del name
    return None


def no_subject(actor: str) -> str:
    """The default surrogate of a person: none, so that usage names nobody."""
    del actor
    return ""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once and how long. Times are seconds, sizes bytes."""

    steps_at_once: int = 8
    default_timeout: float = 3600.0
    backoff_first: float = 0.5
    backoff_most: float = 30.0
    lost_attempts: int = 10  # attempts that died with their process before the step counts as failed
    cancel_poll: float = 0.25
    cancel_grace: float = 10.0
    lease: float = 30.0
    log_line: int = 8 * 1024
    log_file: int = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Services:
    """The neighbours of an engine.

    `signer` is None when the project has no key that can be used: admission then raises `key_error`, or
    that there is none. `secrets` gives a secret's value or None; `redactor` hides those that this process
    has met. `subject_of` gives the surrogate under which usage is written for a person. `pins` are digests
    of the operator's files (policies, resources) by name; they go into the evidence. `policy_document`
    is `policy.document.build_document`.
    """

    store: ArtifactStore
    journal: Journal
    policy: PolicyEngine
    signer: Signer | None
    hub: ModelHub
    cage: Cage
    catalogue: KindSource
    rates: RateCard
    spool: UsageSpool
    project: ProjectView
    network: Network
    evidence_folder: Path
    scratch_folder: Path  # below the state folder; each attempt gets a folder of its own
    log_folder: Path
    policy_document: Callable[..., Mapping[str, Any]]
    tenant: str = "default"
    env: str = "dev"
    budgets: BudgetTree = field(default_factory=BudgetTree)
    project_name: str = "default"  # that usage is attributed to, below the tenant
    subject_of: Callable[[str], str] = no_subject
    secrets: Callable[[str], str | None] = no_secret
    redactor: Redactor = field(default_factory=Redactor)
    key_error: KeyMissingError | None = None
    policy_settings: Mapping[str, Any] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)
    region: str | None = None  # of requests that name none
    limits: Limits = field(default_factory=Limits)
    evidence_url: str | None = None  # object store that all machines find the bundles in; None: the folder

    @property
    def evidence(self) -> EvidenceStore:
        """Where finished bundles lie."""
        from maestro_dagster.evidence.store import EvidenceStore

        return EvidenceStore(self.evidence_folder, self.evidence_url)
