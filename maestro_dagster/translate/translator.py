"""How a flow looks in Dagster: keys, groups, owners, tags, kinds. Subclass it to make it look otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import dagster as dg

from maestro_dagster.manifest.canonical import canonical_json, digest_bytes
from maestro_dagster.manifest.model import Flow, Task

Role = Literal["step", "sbom", "evidence"]

FLOW_METADATA = "maestro/flow"
STEP_METADATA = "maestro/step"
ROLE_METADATA = "maestro/role"

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_TEAM = re.compile(r"[^A-Za-z0-9_-]+")
_TAG_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_TAG_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


@dataclass(frozen=True, slots=True)
class FlowTranslatorSettings:
    """What is translated at all.

    `enable_checks`: policy, completeness, signature and vulnerability gate as asset checks.
    `enable_timeline`: a picture of the run on the evidence asset. `enable_logs`: the steps' log lines
    in the event log of the Dagster run. `preview_limit`: characters of an artifact's preview.
    """

    enable_checks: bool = True
    enable_timeline: bool = True
    enable_logs: bool = True
    preview_limit: int = 4096


@dataclass(frozen=True, slots=True)
class Product:
    """One thing that a flow makes: a step's artifact, the run's SBOM, or its evidence (`task` is None)."""

    flow: Flow
    name: str
    role: Role = "step"
    task: Task | None = None


@dataclass(frozen=True)
class FlowTranslator:
    """Subclass and override a method; each gets the product and gives one property of its asset.

    Asset keys must be different for different products of a project.
    """

    settings: FlowTranslatorSettings = field(default_factory=FlowTranslatorSettings)

    def get_asset_key(self, product: Product) -> dg.AssetKey:
        return dg.AssetKey([product.flow.name, product.name])

    def get_group_name(self, product: Product) -> str | None:
        return product.flow.name.replace("-", "_")

    def get_owners(self, product: Product) -> Sequence[str]:
        """E-mail addresses as they stand, anything else and the label `team` as `team:<name>`."""
        named = [*product.flow.owners, *filter(None, [product.flow.labels.get("team")])]
        owners = [owner if _EMAIL.fullmatch(owner) else _team(owner) for owner in named]
        return list(dict.fromkeys(filter(None, owners)))

    def get_tags(self, product: Product) -> Mapping[str, str]:
        """Labels and governance fields, as far as Dagster's rules for tags allow them."""
        flow, task = product.flow, product.task
        license_class = (task.license_class if task else None) or flow.license_class
        governed = {
            "maestro/flow": flow.name,
            "maestro/region": flow.region,
            "maestro/license_class": license_class,
            "maestro/retention_tier": flow.retention_tier,
            "maestro/contains_pii": "true" if flow.contains_pii else None,
        }
        labels = {key: value for key, value in flow.labels.items() if _TAG_KEY.fullmatch(key)}
        return {k: v for k, v in {**labels, **governed}.items() if v and _TAG_VALUE.fullmatch(v)}

    def get_kinds(self, product: Product) -> set[str]:
        """Two at most: Dagster shows three, and adds none itself."""
        if product.task is None:
            return {"maestro", product.role}
        return {"maestro", product.task.uses.removeprefix("pkg:").split("/", 1)[0]}

    def get_description(self, product: Product) -> str | None:
        flow = product.flow
        if product.role == "evidence":
            return f"Signed evidence of the newest run of `{flow.name}`. {flow.description}".strip()
        if product.role == "sbom":
            return f"CycloneDX bill of materials of `{flow.name}`: kinds, models and artifacts of the run."
        assert product.task is not None  # noqa: S101 - a step's product always has its task
        return f"`{product.task.uses}`, step `{product.name}` of `{flow.name}` {flow.version}."

    def get_metadata(self, product: Product) -> Mapping[str, Any]:
        if product.task is None:
            return {}
        found: dict[str, Any] = {"maestro/uses": product.task.uses}
        if product.task.with_:
            found["maestro/config"] = dg.MetadataValue.json(product.task.with_)
        return found

    def get_code_version(self, product: Product) -> str | None:
        """Changes exactly when the step's kind or its configuration changes."""
        if product.task is None:
            return None
        return code_version(product.task)

    def get_asset_spec(self, product: Product) -> dg.AssetSpec:
        return dg.AssetSpec(
            key=self.get_asset_key(product),
            group_name=self.get_group_name(product),
            owners=self.get_owners(product),
            tags=self.get_tags(product),
            kinds=self.get_kinds(product),
            description=self.get_description(product),
            metadata={**self.get_metadata(product), **own_metadata(product)},
            code_version=self.get_code_version(product),
        )


def own_metadata(product: Product) -> dict[str, Any]:
    """By what the IO manager finds an asset's artifact again."""
    return {
        FLOW_METADATA: product.flow.name,
        STEP_METADATA: product.name,
        ROLE_METADATA: product.role,
    }


def code_version(task: Task) -> str:
    """The first 16 hex digits of sha256 over the kind and the configuration before expressions."""
    return digest_bytes(canonical_json([task.uses, task.with_]))[7:23]


def _team(name: str) -> str | None:
    team = _TEAM.sub("-", name.removeprefix("team:")).strip("-")
    return f"team:{team}" if team else None
