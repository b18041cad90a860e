"""`sbom/cyclonedx`: a bill of materials of what was built, CycloneDX 1.6 (ECMA-424), JSON."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import quote

from pydantic import Field

from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact, ArtifactStore
from maestro_dagster.errors import StepError
from maestro_dagster.manifest.canonical import canonical_json
from maestro_dagster.steps.dependency import Dependency, is_lock_file, read_lock_file, read_requirement
from maestro_dagster.steps.interface import Estimate, StepConfig, StepContext, StepKind, StepResult
from maestro_dagster.steps.wheel_metadata import WheelMetadata, read_wheel_metadata

MEDIA_TYPE = "application/vnd.cyclonedx+json"
UNPINNED = "maestro:unpinned"
MOST_WHEEL_BYTES = 512 * 1024**2


class SbomCyclonedxConfig(StepConfig):
    name: str | None = Field(
        default=None, title="Name", description="of what is described, where no wheel tells it"
    )
    version: str | None = Field(default=None, title="Version", description="the same")


@dataclass
class Findings:
    """What the inputs hold: wheels, other built files, dependencies of lock files."""

    wheels: list[tuple[str, str, WheelMetadata]] = field(default_factory=list)  # file name, digest
    files: list[tuple[str, str]] = field(default_factory=list)
    locked: list[Dependency] = field(default_factory=list)


class SbomCyclonedx(StepKind[SbomCyclonedxConfig]):
    uses: ClassVar[str] = "pkg:sbom/cyclonedx@1.0.0"
    summary: ClassVar[str] = "List what wheels and lock files are made of, as CycloneDX 1.6."
    config = SbomCyclonedxConfig
    media_type: ClassVar[str] = MEDIA_TYPE

    def estimate(self, config: SbomCyclonedxConfig) -> Estimate:
        return Estimate(cpu_seconds=0.2, bytes_out=64 * 1024)

    async def run(
        self, context: StepContext, config: SbomCyclonedxConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        place = f"step {context.step}"
        found = await asyncio.to_thread(collect, context.store, inputs, place)
        if not found.wheels and not found.locked:
            raise StepError(
                "there is neither a wheel nor a lock file in the inputs",
                place=place,
                remedy="need the step that builds, and the one that checks out",
                code="sbom-nothing",
            )
        document = describe(found, config, context.flow)
        data = canonical_json(document)
        artifact = context.store.put_bytes(data, MEDIA_TYPE)
        components = [item for item in document["components"] if item["type"] == "library"]
        unpinned = sorted(item["name"] for item in components if "version" not in item)
        top = document["metadata"]["component"]
        return StepResult(
            artifact=artifact,
            sbom=artifact,
            media_type=MEDIA_TYPE,
            facts={
                "name": top["name"],
                "version": top.get("version", ""),
                "components": len(components),
                "unpinned": unpinned[:100],
            },
            preview=_preview(document),
            warnings=(f"not pinned: {', '.join(unpinned[:20])}",) if unpinned else (),
        )


def collect(store: ArtifactStore, inputs: Mapping[str, Artifact], place: str) -> Findings:
    found = Findings()
    for artifact in inputs.values():
        if artifact.media_type != TREE_MEDIA_TYPE:
            continue
        for entry in store.read_tree(artifact.digest):
            if entry.path.endswith(".whl") and "/" not in entry.path and entry.size <= MOST_WHEEL_BYTES:
                metadata = read_wheel_metadata(entry.path, store.read(entry.digest), place)
                found.wheels.append((entry.path, entry.digest, metadata))
            elif entry.path.endswith((".tar.gz", ".zip")) and "/" not in entry.path:
                found.files.append((entry.path, entry.digest))
            elif is_lock_file(entry.path):
                found.locked += read_lock_file(entry.path, store.read(entry.digest), place)
    return found


def describe(found: Findings, config: SbomCyclonedxConfig, flow: str) -> dict[str, Any]:
    """Deterministic: sorted, no clock, and a serial number made from the content."""
    top = _top(found, config, flow)
    needed = [
        read_requirement(text, f"{name} METADATA")
        for name, _, wheel in found.wheels
        for text in wheel.requires
        if "extra ==" not in text.partition(";")[2].replace("extra==", "extra ==")
    ]
    libraries = _merge([*needed, *found.locked])
    components = [_library(item) for item in libraries]
    components += [_file(name, digest) for name, digest, _ in found.wheels]
    components += [_file(name, digest) for name, digest in found.files]
    components = sorted(
        {item["bom-ref"]: item for item in components}.values(), key=lambda item: item["bom-ref"]
    )
    direct = {item.name for item in needed} if found.wheels else {item.name for item in libraries}
    references = [item["bom-ref"] for item in components if item["type"] == "file" or item["name"] in direct]
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": top,
            "tools": {"components": [{"type": "application", "name": "maestro-dagster"}]},
        },
        "components": components,
        "dependencies": [
            {"ref": top["bom-ref"], "dependsOn": sorted(references)},
            *({"ref": item["bom-ref"]} for item in components),
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, canonical_json(document).decode("utf-8"))
    return {"serialNumber": f"urn:uuid:{serial}", **document}


def _top(found: Findings, config: SbomCyclonedxConfig, flow: str) -> dict[str, Any]:
    if not found.wheels:
        top = {"type": "application", "bom-ref": "this", "name": config.name or flow}
        return top | ({"version": config.version} if config.version else {})
    _, digest, wheel = min(found.wheels, key=lambda item: item[0])
    purl = make_purl(wheel.name, wheel.version)
    described: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"this:{purl}",
        "name": wheel.name,
        "version": wheel.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
    }
    if wheel.summary:
        described["description"] = wheel.summary
    return described | _licences(wheel)


def _licences(wheel: WheelMetadata) -> dict[str, Any]:
    """An expression only where it is one: `expression` must be valid SPDX, anything else is a name."""
    if not wheel.licence:
        return {}
    if wheel.is_expression:
        from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

        try:
            return {"licenses": [{"expression": str(canonicalize_license_expression(wheel.licence))}]}
        except InvalidLicenseExpression:
            pass
    return {"licenses": [{"license": {"name": wheel.licence}}]}


def _merge(found: Iterable[Dependency]) -> list[Dependency]:
    """One entry for each name and version; an unpinned mention yields to a pinned one."""
    items = list(found)
    pinned = {item.name for item in items if item.version}
    merged: dict[tuple[str, str | None], Dependency] = {}
    for item in items:
        if item.version is None and item.name in pinned:
            continue
        key = (item.name, item.version)
        known = merged.get(key)
        if known is None or (item.hashes and not known.hashes):
            merged[key] = item
    return [merged[key] for key in sorted(merged, key=lambda key: (key[0], key[1] or ""))]


def _library(item: Dependency) -> dict[str, Any]:
    purl = make_purl(item.name, item.version)
    properties = [{"name": "maestro:source", "value": item.source}]
    if item.marker:
        properties.append({"name": "maestro:marker", "value": item.marker})
    if item.version is None:
        properties.append({"name": UNPINNED, "value": item.note or "true"})
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl or f"unpinned:{item.name}",
        "name": item.name,
        "properties": properties,
    }
    if purl:
        component["purl"] = purl
    if item.version is not None:
        component["version"] = item.version
    if len(item.hashes) == 1:  # of several files nobody knows which one will be installed
        component["hashes"] = [{"alg": "SHA-256", "content": item.hashes[0].removeprefix("sha256:")}]
    return component


def _file(name: str, digest: str) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
    }


def make_purl(name: str, version: str | None) -> str:
    """Package URL of a Python package; empty for something that is no package name."""
    from packaging.utils import canonicalize_name, is_normalized_name

    canonical = canonicalize_name(name)
    if not is_normalized_name(canonical):
        return ""
    return f"pkg:pypi/{canonical}" + (f"@{quote(version, safe='.!-_~')}" if version else "")


def _preview(document: Mapping[str, Any]) -> str:
    rows = [
        f"| {item['name']} | {item.get('version', '**not pinned**')} |"
        for item in document["components"]
        if item["type"] == "library"
    ]
    top = document["metadata"]["component"]
    head = f"**{top['name']} {top.get('version', '')}** · {len(rows)} dependencies\n\n"
    return (head + "| package | version |\n|---|---|\n" + "\n".join(rows[:50]) if rows else head)[:4000]
