"""A claim as bytes: RFC 8785 JSON, fields at their default left out; each claim has one spelling only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, Final, get_args

from maestro_dagster.errors import EvidenceError
from maestro_dagster.evidence.document import read_canonical, write_canonical
from maestro_dagster.evidence.interface import Claim, ClaimStatus, InputRef, OutputRef

CLAIM_SCHEMA: Final = "urn:maestro:claim:v1"
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
MONEY: Final = re.compile(r"(0|[1-9]\d{0,11})(\.\d{1,9})?")
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")

# A price that is unknown (null) is not a price of zero: the field is always written.
_ALWAYS: Final = frozenset({"cost_usd", "started_at"})
_DEFAULTS: Final[dict[str, Any]] = {
    field.name: field.default if field.default is not MISSING else {}
    for field in fields(Claim)
    if field.name not in _ALWAYS and (field.default is not MISSING or field.default_factory is not MISSING)
}
_NAMES: Final = tuple(field.name for field in fields(Claim))


def claim_bytes(claim: Claim) -> bytes:
    """The canonical bytes: what is hashed, signed and stored. Serialise once and keep them."""
    document: dict[str, Any] = {"schema": CLAIM_SCHEMA}
    for name in _NAMES:
        value = getattr(claim, name)
        if name in _DEFAULTS and value == _DEFAULTS[name]:
            continue
        document[name] = _PLAIN[name](value) if name in _PLAIN else value
    return write_canonical(document)


def parse_claim(line: bytes) -> Claim:
    """Reads canonical bytes back. Raises EvidenceError (`claim-invalid`, `claim-not-canonical`)."""
    document = read_claim(line)
    values = {name: value for name, value in document.items() if name != "schema"}
    values["inputs"] = tuple(InputRef(**item) for item in document.get("inputs", ()))
    values["iterations"] = tuple(document.get("iterations", ()))
    values["egress"] = tuple(document.get("egress", ()))
    if (output := document.get("output")) is not None:
        files = tuple((item["path"], item["digest"]) for item in output.get("files", ()))
        values["output"] = OutputRef(output["digest"], output["media_type"], output["size"], files)
    return Claim(**values)


def read_claim(line: bytes) -> dict[str, Any]:
    """The claim as plain JSON, every field checked. Raises EvidenceError as `parse_claim` does."""
    document = read_canonical(line, "a claim", code="claim")
    if not isinstance(document, dict) or document.get("schema") != CLAIM_SCHEMA:
        raise EvidenceError(f"a claim is not of the schema {CLAIM_SCHEMA}", code="claim-invalid")
    _check(document)
    for name, default in _DEFAULTS.items():
        if name in document and document[name] == _as_json(default):
            raise EvidenceError(f"a claim spells out the default of {name}", code="claim-not-canonical")
    if document.get("output") and document["output"].get("files") == []:
        raise EvidenceError("a claim spells out an empty list of files", code="claim-not-canonical")
    return document


def _as_json(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def _plain_output(output: OutputRef) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "digest": output.digest,
        "media_type": output.media_type,
        "size": output.size,
    }
    if output.files:
        plain["files"] = [{"path": path, "digest": digest} for path, digest in output.files]
    return plain


def _plain_inputs(inputs: tuple[InputRef, ...]) -> list[dict[str, str]]:
    return [{"source": item.source, "digest": item.digest, "media_type": item.media_type} for item in inputs]


_PLAIN: Final[dict[str, Callable[[Any], Any]]] = {
    "inputs": _plain_inputs,
    "output": _plain_output,
    "egress": list,
    "iterations": lambda items: [dict(item) for item in items],
}

_STATUSES: Final = frozenset(get_args(ClaimStatus))
_Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


def _is_money(value: Any) -> bool:
    return value is None or (isinstance(value, str) and MONEY.fullmatch(value) is not None)


def _is_time(value: Any) -> bool:
    return isinstance(value, str) and TIME.fullmatch(value) is not None


def _is_status(value: Any) -> bool:
    return isinstance(value, str) and value in _STATUSES


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _list_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _record(required: Mapping[str, _Check], optional: Mapping[str, _Check]) -> _Check:
    def check(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and all(name in value for name in required)
            and all(
                (known := required.get(name) or optional.get(name)) is not None and known(item)
                for name, item in value.items()
            )
        )

    return check


_INPUT = _record({"source": _is_text, "digest": _is_digest, "media_type": _is_text}, {})
_FILE = _record({"path": _is_text, "digest": _is_digest}, {})
_OUTPUT = _record(
    {"digest": _is_digest, "media_type": _is_text, "size": _is_count},
    {"files": _list_of(_FILE)},
)
_CLAIM: Final[dict[str, _Check]] = {
    "schema": _is_text,
    "run_id": _is_text,
    "flow": _is_text,
    "flow_digest": _is_digest,
    "step": _is_text,
    "uses": _is_text,
    "status": _is_status,
    "attempts": _is_count,
    "started_at": lambda value: value is None or _is_time(value),
    "finished_at": _is_time,
    "duration_ms": _is_count,
    "config_digest": _is_digest,
    "inputs": _list_of(_INPUT),
    "output": _OUTPUT,
    "cost_usd": _is_money,
    "isolation": _is_text,
    "egress": _list_of(_is_text),
    "reused_from": _is_text,
    "error": _is_object,
    "reason": _is_text,
    "model": _is_object,
    "facts": _is_object,
    "iterations": _list_of(_is_object),
}

_REQUIRED: Final = frozenset(_CLAIM) - frozenset(_DEFAULTS)


def _check(document: Mapping[str, Any]) -> None:
    for name, value in document.items():
        check = _CLAIM.get(name)
        if check is None:
            raise EvidenceError(f"a claim has an unknown field {name!r}", code="claim-invalid")
        if not check(value):
            raise EvidenceError(f"the field {name} of a claim is malformed", code="claim-invalid")
    if missing := _REQUIRED - document.keys():
        raise EvidenceError(f"a claim lacks {', '.join(sorted(missing))}", code="claim-invalid")
