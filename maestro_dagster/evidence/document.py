"""JSON that stands in evidence: RFC 8785, one spelling only."""

from __future__ import annotations

import json
from typing import Any

from maestro_dagster.errors import EvidenceError, ManifestError
from maestro_dagster.manifest.canonical import MAX_SAFE_INTEGER, canonical_json


def read_canonical(data: bytes, what: str, *, code: str) -> Any:
    """The value of canonical JSON bytes; any other spelling of it is refused.

    Raises EvidenceError `<code>-invalid` (no JSON) or `<code>-not-canonical`; `what` opens the sentence.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"{what} is not JSON", code=f"{code}-invalid") from error
    if _spell(value) != data:
        # RFC 8785 writes a float below 10^21 without exponent; read as an integer it is refused.
        value = json.loads(data, parse_int=_read_integer)
        if _spell(value) != data:
            raise EvidenceError(f"{what} is not in canonical form", code=f"{code}-not-canonical")
    return value


def _spell(value: Any) -> bytes | None:
    try:
        return canonical_json(value)
    except ManifestError:
        return None


def _read_integer(text: str) -> int | float:
    value = int(text)
    return value if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else float(text)
