"""The inner form of a flow: what every dialect is read into and every other room works on.

A superset of the Workflow Manifest v1 schema. Frozen: a flow never changes after it was read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, WithJsonSchema

from maestro_dagster.manifest.money import money_text
from maestro_dagster.manifest.trigger import INPUT_SCHEMA, read_triggers

LicenseClass = Literal["MIT_OK", "OPEN_DATA_OK", "RESTRICTED_TOS", "PROPRIETARY_CLIENT", "EMBARGOED"]
RetentionTier = Literal["ephemeral-7d", "short-30d", "standard-365d", "long-1825d", "legal-hold"]
Purpose = Literal["investigation", "threat-intel", "fraud-risk", "t&s", "benchmarking", "training", "demo"]
DataClass = Literal["public", "internal", "confidential", "personal"]
Isolation = Literal["namespaces", "none"]
TriggerEvent = Literal["push", "pr", "tag", "release", "schedule", "manual", "delete", "pipeline", "check"]
TriggerAction = Literal[
    "opened", "updated", "reopened", "ready", "edited", "labeled", "unlabeled", "closed", "merged",
    "published", "created", "deleted", "requested", "completed",
]  # fmt: skip
Conclusion = Literal[
    "success", "failure", "cancelled", "skipped", "neutral", "timed_out", "action_required", "stale"
]

# Digits stand as [0-9]: `\d` means the digits of every script to some readers of a pattern.
FlowName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{3,64}$")]
StepId = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Uses = Annotated[str, Field(pattern=r"^pkg:[a-z0-9-]+/[a-z0-9._-]+@[0-9]+\.[0-9]+\.[0-9]+$")]
_AMOUNT = r"^[0-9]{1,12}(\.[0-9]{1,9})?$"
Usd = Annotated[
    str,
    Field(pattern=_AMOUNT),
    BeforeValidator(money_text),  # `usd: 0.50` in a file is a number; inside it is canonical text
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": _AMOUNT}, {"type": "number", "minimum": 0}]},
        mode="validation",
    ),
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Param(_Frozen):
    type: Literal["string", "integer", "number", "boolean", "array", "object"] = "string"
    enum: tuple[Any, ...] | None = None
    default: Any = None
    required: StrictBool = False
    description: str = ""
    data_class: DataClass | None = None


class Trigger(_Frozen):
    """One entry of `on:`. `branches`, `paths` and `labels` are fnmatch patterns; empty means all.

    Without `actions` those count that bring something new. Without `forks` nothing starts from a fork.
    """

    event: TriggerEvent
    branches: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    schedule: str | None = None  # cron, when event is "schedule"
    labels: tuple[str, ...] = ()
    actions: tuple[TriggerAction, ...] = ()
    conclusions: tuple[Conclusion, ...] = ()
    forks: StrictBool = False


Triggers = Annotated[
    tuple[Trigger, ...], BeforeValidator(read_triggers), WithJsonSchema(INPUT_SCHEMA, mode="validation")
]


class Budget(_Frozen):
    usd: Usd | None = None
    tokens: int | None = Field(default=None, ge=0, strict=True)


class Export(_Frozen):
    target: str


class Resources(_Frozen):
    size: Literal["small", "medium", "large"] | None = Field(default=None, alias="class")
    pod: StrictBool = False  # ask for a pod (and thus a segment) of its own


class Task(_Frozen):
    """One step of a flow. `uses` is always a pinned package URL here: aliases are resolved by readers."""

    id: StepId
    uses: Uses
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    needs: tuple[StepId, ...] = ()
    assets: dict[str, str] = Field(default_factory=dict)  # input name -> Dagster asset key, "a/b"
    if_: str | None = Field(default=None, alias="if")
    join: Literal["all", "any"] = "all"
    retries: int = Field(default=0, ge=0, le=10, strict=True)
    timeout_seconds: int | None = Field(default=None, ge=1, le=86400, alias="timeoutSeconds", strict=True)
    resources: Resources | None = None
    budget: Budget | None = None
    egress: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    isolation: Isolation = "namespaces"
    license_class: LicenseClass | None = None
    data_class: DataClass | None = None


class Flow(_Frozen):
    name: FlowName
    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+(-[a-z0-9.]+)?$")]
    description: str = Field(default="", max_length=2048)
    on: Triggers = ()
    params: dict[str, Param] = Field(default_factory=dict)
    inputs: dict[str, Any] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    owners: tuple[str, ...] = ()
    region: str | None = None
    purpose: tuple[Purpose, ...] = ()
    license_class: LicenseClass | None = None
    retention_tier: RetentionTier | None = None
    contains_pii: StrictBool = False
    legal_hold: StrictBool = False
    export: Export | None = None
    data_classes: dict[str, DataClass] = Field(default_factory=dict)  # param or input name -> class
    budget: Budget | None = None
    tasks: tuple[Task, ...] = Field(min_length=1, max_length=10_000)

    def task(self, step_id: str) -> Task:
        """The step with this id. Raises KeyError when there is none."""
        for task in self.tasks:
            if task.id == step_id:
                return task
        raise KeyError(step_id)
