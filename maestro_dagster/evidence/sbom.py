"""sbom.json: CycloneDX 1.6 of a run: its flow, step kinds, models and artifacts, and what depends on what.

Written directly, not through a library: the document is small, must be the same bytes each time, and
the library costs a second to import. The tests hold it against the library's strict validator.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from maestro_dagster.errors import EvidenceError, ManifestError
from maestro_dagster.evidence.interface import BuiltArtifact, Claim
from maestro_dagster.manifest.canonical import canonical_json

_READ_VERSIONS: Final = ("1.2", "1.3", "1.4", "1.5", "1.6")
_SECTIONS: Final = ("components", "services", "dependencies", "vulnerabilities")


def assemble_sbom(
    *,
    run_id: str,
    finished_at: str,
    flow: Mapping[str, Any],
    flow_digest: str,
    claims: Sequence[Claim] = (),
    built: Sequence[BuiltArtifact] = (),
    merged: Iterable[bytes] = (),
) -> bytes:
    """RFC 8785 bytes of the SBOM; the same run gives the same bytes (the serial number is a UUIDv5).

    `flow` is the normal form, `finished_at` RFC 3339, `merged` are CycloneDX documents that steps made:
    their components and dependencies join under prefixed references.
    Raises EvidenceError `sbom-invalid` when one of those cannot be read.
    """
    top = f"flow:{flow['name']}"
    document: dict[str, list[Any]] = {section: [] for section in _SECTIONS}
    document["components"] += _describe_kinds(flow) + _describe_models(claims)
    document["components"] += _describe_outputs(claims) + _describe_built(built)
    document["dependencies"] += _describe_graph(top, flow, claims, built)
    for number, data in enumerate(merged):
        for section, items in _read_part(data, f"part{number}/").items():
            document[section] += items
        document["dependencies"][0]["dependsOn"] += _top_of(document, f"part{number}/")
    return canonical_json(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'urn:maestro:run:{run_id}')}",
            "version": 1,
            "metadata": {
                "timestamp": finished_at,
                "tools": {"components": [{"type": "application", "name": "maestro-dagster"}]},
                "component": {
                    "type": "application",
                    "bom-ref": top,
                    "name": flow["name"],
                    "version": flow["version"],
                    "hashes": _hashes(flow_digest),
                },
                "properties": [{"name": "maestro:run_id", "value": run_id}],
            },
            **{section: items for section, items in document.items() if items},
        }
    )


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}]


def _describe_kinds(flow: Mapping[str, Any]) -> list[dict[str, Any]]:
    kinds = []
    for uses in sorted({task["uses"] for task in flow["tasks"]}):
        name, _, version = uses.removeprefix("pkg:").rpartition("@")
        kinds.append(
            {"type": "library", "bom-ref": f"kind:{uses}", "name": name, "version": version, "purl": uses}
        )
    return kinds


def _describe_models(claims: Iterable[Claim]) -> list[dict[str, Any]]:
    models = {_model_of(claim) for claim in claims} - {None}
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": f"model:{provider}/{name}",
            "group": provider,
            "name": name,
        }
        for provider, name in sorted(model for model in models if model is not None)
    ]


def _model_of(claim: Claim) -> tuple[str, str] | None:
    if not claim.model or not claim.model.get("model"):
        return None
    return str(claim.model.get("provider") or "unknown"), str(claim.model["model"])


def _describe_outputs(claims: Iterable[Claim]) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "bom-ref": f"artifact:{claim.step}",
            "name": claim.step,
            "hashes": _hashes(claim.output.digest),
            "properties": [
                {"name": "maestro:media_type", "value": claim.output.media_type},
                {"name": "maestro:size", "value": str(claim.output.size)},
            ],
        }
        for claim in claims
        if claim.output is not None
    ]


def _describe_built(built: Sequence[BuiltArtifact]) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "bom-ref": f"built:{number}",
            "name": artifact.name,
            "hashes": _hashes(artifact.digest),
        }
        for number, artifact in enumerate(built)
    ]


def _describe_graph(
    top: str, flow: Mapping[str, Any], claims: Sequence[Claim], built: Sequence[BuiltArtifact]
) -> list[dict[str, Any]]:
    needs = {task["id"]: task.get("needs", ()) for task in flow["tasks"]}
    made = [claim.step for claim in claims if claim.output is not None]
    known = set(made)
    graph = []
    for claim in claims:
        if claim.step not in known:
            continue
        before = [f"kind:{claim.uses}"]
        if (model := _model_of(claim)) is not None:
            before.append(f"model:{model[0]}/{model[1]}")
        before += [f"artifact:{need}" for need in needs.get(claim.step, ()) if need in known]
        graph.append({"ref": f"artifact:{claim.step}", "dependsOn": before})
    graph += [
        {"ref": f"built:{number}", "dependsOn": [f"artifact:{artifact.step}"]}
        for number, artifact in enumerate(built)
        if artifact.step in known
    ]
    kinds = sorted({f"kind:{task['uses']}" for task in flow["tasks"]})
    return [{"ref": top, "dependsOn": kinds + [f"artifact:{step}" for step in made]}, *graph]


def _read_part(data: bytes, prefix: str) -> dict[str, list[Any]]:
    try:
        part = json.loads(data)
        if part["bomFormat"] != "CycloneDX" or part["specVersion"] not in _READ_VERSIONS:
            raise _invalid("it is not CycloneDX of version 1.6 or earlier")
        canonical_json(part)
        sections: dict[str, list[Any]] = {name: list(part.get(name) or ()) for name in _SECTIONS}
        root = (part.get("metadata") or {}).get("component")
        if root is not None:
            sections["components"].insert(0, root)
        sound = all(isinstance(item, dict) for items in sections.values() for item in items) and all(
            isinstance(item.get("dependsOn", []), list) for item in sections["dependencies"]
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ManifestError) as error:
        raise _invalid("it is not a CycloneDX document") from error
    if not sound:
        raise _invalid("its sections are malformed")
    own = set(_references(sections))
    joined = {name: [_rename(item, own, prefix) for item in items] for name, items in sections.items()}
    for name in ("components", "services", "vulnerabilities"):
        for number, item in enumerate(joined[name]):
            # Two equal parts must not make two equal entries: the schema asks for unique ones.
            item.setdefault("bom-ref", f"{prefix}{name}/{number}")
    return joined


def _invalid(why: str) -> EvidenceError:
    return EvidenceError(f"the SBOM that a step made cannot be merged: {why}", code="sbom-invalid")


def _references(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        if isinstance(value.get("bom-ref"), str):
            yield value["bom-ref"]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _rename(value: Any, own: set[str], prefix: str, key: str = "") -> Any:
    """The value with every reference to something of the same document prefixed."""
    if isinstance(value, dict):
        return {name: _rename(item, own, prefix, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_rename(item, own, prefix, key) for item in value]
    refers = key in ("bom-ref", "ref", "dependsOn", "provides")
    return prefix + value if refers and isinstance(value, str) and value in own else value


def _top_of(document: Mapping[str, list[Any]], prefix: str) -> list[str]:
    """What the flow depends on in a merged part: what nothing else in it depends on."""
    refs = [item.get("bom-ref", "") for item in document["components"]]
    below = {ref for item in document["dependencies"][1:] for ref in item.get("dependsOn", ())}
    return [ref for ref in refs if ref.startswith(prefix) and ref not in below]
