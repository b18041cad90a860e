"""What a flow becomes in Dagster, before any of Dagster's objects is made: ops, outputs, keys, edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from maestro_dagster.manifest.model import Flow
from maestro_dagster.manifest.trigger import REPOSITORY_EVENTS
from maestro_dagster.steps.catalogue import load_catalogue
from maestro_dagster.translate.name import encode_name, free_name
from maestro_dagster.translate.segment import Segment, cut_segments
from maestro_dagster.translate.translator import FlowTranslator, Product

SBOM_KIND = "pkg:sbom/"
SCAN_KIND = "pkg:scan/"


@dataclass(frozen=True, slots=True)
class Output:
    """One output of an op: its encoded name, its asset, and the assets that it depends on."""

    name: str
    product: Product
    key: dg.AssetKey
    parents: frozenset[dg.AssetKey]


@dataclass(frozen=True, slots=True)
class Op:
    """One op: the steps that it runs (control steps too) and what it makes. The last one closes the run."""

    name: str
    steps: tuple[str, ...]
    outputs: tuple[Output, ...]
    pod: bool
    last: bool


@dataclass(frozen=True, slots=True)
class FlowPlan:
    """`keys` maps the name of each product to its asset; `sbom` is None when a step makes one."""

    flow: Flow
    ops: tuple[Op, ...]
    keys: Mapping[str, dg.AssetKey]
    evidence: str
    sbom: str | None
    partitioned: bool

    @property
    def job_name(self) -> str:
        return encode_name(self.flow.name)

    @property
    def partitions_name(self) -> str:
        return partitions_name(self.flow.name)

    @property
    def evidence_key(self) -> dg.AssetKey:
        return self.keys[self.evidence]


def partitions_name(flow: str) -> str:
    """The name of the set of partitions (`<repository>@<ref>`) of a flow that runs on pushes."""
    return f"maestro/{flow}"


def is_partitioned(flow: Flow) -> bool:
    """Whether the flow runs on what happens in repositories: its artifacts are then kept apart by
    repository and ref, or pull request.
    """
    return any(trigger.event in REPOSITORY_EVENTS for trigger in flow.on)


def plan_flow(flow: Flow, translator: FlowTranslator) -> FlowPlan:
    """Pure: the same flow and translator give the same plan."""
    catalogue = load_catalogue()
    products = {
        task.id: Product(flow, task.id, "step", task) for task in flow.tasks if catalogue.is_asset(task.uses)
    }
    steps = frozenset(task.id for task in flow.tasks)
    evidence = free_name("evidence", steps)
    closing = [Product(flow, evidence, "evidence")]
    sbom = None
    if not any(task.uses.startswith(SBOM_KIND) for task in flow.tasks):
        sbom = free_name("sbom", steps)
        closing.append(Product(flow, sbom, "sbom"))
    keys = {name: translator.get_asset_key(product) for name, product in products.items()}
    keys |= {product.name: translator.get_asset_key(product) for product in closing}
    segments = cut_segments(flow)
    parents = _asset_parents(flow, segments, keys)
    # The evidence hangs on the assets that no other asset of the flow depends on.
    inner = {key for name in products for key in parents[name]}
    leaves = frozenset(keys[name] for name in products if keys[name] not in inner)
    parents |= {product.name: leaves for product in closing}
    groups = _ops_of(segments, products, closing)
    first = f"{encode_name(flow.name)}_steps"
    ops = tuple(
        Op(
            name=first if number == 0 else f"{first}{number + 1}",
            steps=segment.steps,
            outputs=tuple(
                Output(encode_name(product.name), product, keys[product.name], parents[product.name])
                for product in made
            ),
            pod=segment.pod,
            last=number == len(groups) - 1,
        )
        for number, (segment, made) in enumerate(groups)
    )
    return FlowPlan(flow, ops, keys, evidence, sbom, is_partitioned(flow))


def _ops_of(
    segments: Sequence[Segment], products: Mapping[str, Product], closing: list[Product]
) -> list[tuple[Segment, list[Product]]]:
    """Segments with what they make. One that makes nothing runs with the next, or with the evidence."""
    groups: list[tuple[Segment, list[Product]]] = []
    waiting: tuple[str, ...] = ()
    for segment in segments:
        made = [products[step] for step in segment.steps if step in products]
        if not made:
            waiting += segment.steps
            continue
        groups.append((Segment(len(groups), waiting + segment.steps, segment.pod), made))
        waiting = ()
    if groups and not groups[-1][0].pod:
        last, made = groups[-1]
        groups[-1] = (Segment(last.index, last.steps + waiting), [*made, *closing])
    else:
        groups.append((Segment(len(groups), waiting), closing))
    return groups


def _asset_parents(
    flow: Flow, segments: Sequence[Segment], keys: Mapping[str, dg.AssetKey]
) -> dict[str, frozenset[dg.AssetKey]]:
    """Step -> the nearest assets before it: through control steps, which make none, and Python assets."""
    behind: dict[str, frozenset[dg.AssetKey]] = {}  # what a dependent of the step sees
    parents: dict[str, frozenset[dg.AssetKey]] = {}
    tasks = {task.id: task for task in flow.tasks}
    for segment in segments:
        for step in segment.steps:
            task = tasks[step]
            found = frozenset(dg.AssetKey(key.split("/")) for key in task.assets.values())
            found = found.union(*(behind[need] for need in task.needs))
            parents[step] = found
            behind[step] = frozenset({keys[step]}) if step in keys else found
    return parents
