"""`scan/vulnerabilities`: holds a bill of materials against the project's advisories, and fails closed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import unquote

from pydantic import Field

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.manifest.canonical import canonical_json
from maestro_dagster.steps.advisory import AdvisoryIndex, is_example, load_index, require_fresh
from maestro_dagster.steps.cvss import LEVELS
from maestro_dagster.steps.input import read_json, read_only_input
from maestro_dagster.steps.interface import Estimate, StepConfig, StepContext, StepKind, StepResult
from maestro_dagster.steps.osv import ECOSYSTEMS, UndecidedError, find_fix, is_affected, judge_severity

MOST_COMPONENTS = 100_000


class ScanVulnerabilitiesConfig(StepConfig):
    source: str | None = Field(
        default=None, title="Source", description="the need that gives the CycloneDX document"
    )
    fail_on: Literal["low", "medium", "high", "critical"] = Field(
        default="high",
        title="Threshold",
        description="fail at this severity and above; unknown counts as high",
    )
    allow_unresolved: bool = Field(
        default=False,
        title="Allow unresolved",
        description="let components pass that no version is known of, with a warning",
    )
    ignore: dict[str, str] = Field(
        default_factory=dict,
        title="Ignored advisories",
        description="id to the reason, shown in the evidence",
    )


@dataclass(frozen=True, slots=True)
class Finding:
    """`advisory` is `unresolved` for a component that cannot be judged."""

    package: str
    version: str
    advisory: str
    severity: str
    summary: str
    fixed: str
    example: bool
    ignored: str

    def counts(self, threshold: str) -> bool:
        return not self.ignored and LEVELS.index(self.severity) >= LEVELS.index(threshold)


class ScanVulnerabilities(StepKind[ScanVulnerabilitiesConfig]):
    uses: ClassVar[str] = "pkg:scan/vulnerabilities@1.0.0"
    summary: ClassVar[str] = "Fail when a component is named by an advisory."
    config = ScanVulnerabilitiesConfig
    media_type: ClassVar[str] = "application/json"

    def estimate(self, config: ScanVulnerabilitiesConfig) -> Estimate:
        return Estimate(cpu_seconds=0.5, bytes_out=16 * 1024)

    async def run(
        self, context: StepContext, config: ScanVulnerabilitiesConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        place = f"step {context.step}"
        name, artifact = _choose_document(inputs, context, config)
        document = read_json(context.store, artifact, f"{place}, input {name}")
        index = await asyncio.to_thread(load_index, context.project.advisories)
        age = require_fresh(index, context.project.advisories_max_age_days, context.started_at)
        components = list(read_components(document, place))
        findings = await asyncio.to_thread(judge_components, components, index, config)
        counted = [item for item in findings if item.counts(config.fail_on)]
        for item in findings:
            context.log(f"{item.severity}: {item.package} {item.version}: {item.advisory} {item.summary}")
        if counted:
            raise _vulnerable(counted, place)
        database = {
            "digest": index.digest,
            "records": index.records,
            "examples": index.examples,
            "newest": index.newest.isoformat() if index.newest else None,
            "age_days": age,
        }
        report = {
            "components": len(components),
            "threshold": config.fail_on,
            "findings": [asdict(item) for item in findings],
            "database": database,
        }
        return StepResult(
            data=canonical_json(report),
            media_type=self.media_type,
            facts={"components": len(components), "findings": len(findings), "database": database},
            preview=_preview(len(components), findings),
            warnings=_warnings(index, findings, context.project.advisories_max_age_days),
        )


def _choose_document(
    inputs: Mapping[str, Artifact], context: StepContext, config: ScanVulnerabilitiesConfig
) -> tuple[str, Artifact]:
    """The one CycloneDX input, also where the step needs other things for their order's sake."""
    boms = {name: item for name, item in inputs.items() if "cyclonedx" in item.media_type}
    return read_only_input(boms or inputs, context.step, config.source)


def read_components(document: Any, place: str) -> Iterator[Mapping[str, Any]]:
    """All components, nested ones too, and what the document is about. Raises StepError (`sbom-invalid`)."""
    if not isinstance(document, dict) or document.get("bomFormat") != "CycloneDX":
        raise _not_sbom("it is no CycloneDX document", place)
    queue = [document.get("components") or []]
    top = (document.get("metadata") or {}).get("component")
    if isinstance(top, dict) and top.get("purl"):
        queue.append([top])
    seen = 0
    while queue:
        level = queue.pop()
        if not isinstance(level, list) or not all(isinstance(item, dict) for item in level):
            raise _not_sbom("its components are malformed", place)
        for item in level:
            seen += 1
            if seen > MOST_COMPONENTS:
                raise _not_sbom(f"it holds more than {MOST_COMPONENTS} components", place)
            queue.append(item.get("components") or [])
            if item.get("type") not in {"file", "machine-learning-model", "data"}:
                yield item


def judge_components(
    components: list[Mapping[str, Any]], index: AdvisoryIndex, config: ScanVulnerabilitiesConfig
) -> list[Finding]:
    found: set[Finding] = set()
    for component in components:
        found.update(_judge(component, index, config))
    return sorted(found, key=lambda item: (-LEVELS.index(item.severity), item.package, item.advisory))


def _judge(
    component: Mapping[str, Any], index: AdvisoryIndex, config: ScanVulnerabilitiesConfig
) -> Iterator[Finding]:
    ecosystem, package, version = _identify(component)
    if not ecosystem or not version:
        why = "no version is known" if ecosystem else "its kind of package is not known"
        yield _unresolved(package, version, why, config)
        return
    for record in index.find(ecosystem, package):
        try:
            if not is_affected(record, ecosystem, package, version):
                continue
            fixed = find_fix(record, ecosystem, package, version) or ""
        except (UndecidedError, ValueError, TypeError, KeyError, AttributeError) as error:
            yield _unresolved(package, version, f"{record['id']}: {error}", config)
            continue
        yield Finding(
            package=package,
            version=version,
            advisory=record["id"],
            severity=judge_severity(record, ecosystem, package),
            summary=str(record.get("summary") or record.get("details") or "")[:300],
            fixed=fixed,
            example=is_example(record),
            ignored=config.ignore.get(record["id"], ""),
        )


def _identify(component: Mapping[str, Any]) -> tuple[str, str, str]:
    """(ecosystem, package, version) of a package URL (`pkg:type/namespace/name@version?...#...`)."""
    purl = str(component.get("purl") or "")
    body = purl.removeprefix("pkg:").partition("#")[0].partition("?")[0]
    kind, _, rest = body.partition("/")
    path, at, version = rest.rpartition("@")
    path = unquote(path if at else rest)
    name = path.replace("/", ":") if kind == "maven" else path
    shown = name or str(component.get("name") or "?")
    return ECOSYSTEMS.get(kind, ""), shown, unquote(version) if at else str(component.get("version") or "")


def _unresolved(package: str, version: str, why: str, config: ScanVulnerabilitiesConfig) -> Finding:
    return Finding(
        package=package,
        version=version,
        advisory="unresolved",
        severity="high" if not config.allow_unresolved else "none",
        summary=why,
        fixed="",
        example=False,
        ignored="",
    )


def _vulnerable(counted: list[Finding], place: str) -> StepError:
    first = counted[0]
    more = f", and {len(counted) - 1} more" if len(counted) > 1 else ""
    if first.advisory == "unresolved":
        return StepError(
            f"{first.package} cannot be judged: {first.summary}{more}",
            place=place,
            remedy="pin it to one version, or set allow_unresolved",
            code="unresolved",
        )
    remedy = f"use {first.package} {first.fixed} or later" if first.fixed else f"do without {first.package}"
    return StepError(
        f"{first.package} {first.version} is named by {first.advisory} "
        f"({first.severity}: {first.summary}){more}",
        place=place,
        remedy=remedy,
        code="vulnerable",
    )


def _warnings(index: AdvisoryIndex, findings: list[Finding], max_age_days: int | None) -> tuple[str, ...]:
    found = []
    if index.examples:
        found.append(f"{index.examples} of {index.records} advisories are examples, about invented packages")
    if max_age_days is None:
        found.append("no age limit is set for the advisories")
    ignored = sorted({f"{item.advisory} ({item.ignored})" for item in findings if item.ignored})
    if ignored:
        found.append("ignored: " + ", ".join(ignored))
    unresolved = sorted({item.package for item in findings if item.advisory == "unresolved"})
    if unresolved:
        found.append("not judged: " + ", ".join(unresolved[:20]))
    return tuple(found)


def _preview(components: int, findings: list[Finding]) -> str:
    head = f"**{components} components, {len(findings)} findings**\n"
    rows = [
        f"| {item.severity} | {item.package} {item.version} | {item.advisory} |" for item in findings[:40]
    ]
    return (
        head + "\n| severity | package | advisory |\n|---|---|---|\n" + "\n".join(rows) if rows else head
    )[:4000]


def _not_sbom(why: str, place: str) -> StepError:
    return StepError(
        f"the bill of materials cannot be read: {why}",
        place=place,
        remedy="need a step that makes CycloneDX JSON, such as sbom/cyclonedx",
        code="sbom-invalid",
    )
