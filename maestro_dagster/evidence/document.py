"""JSON that stands in evidence: RFC 8785, one spelling only."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from maestro_dagster.errors import EvidenceError, ManifestError
from maestro_dagster.manifest.canonical import MAX_SAFE_INTEGER, canonical_json


def write_canonical(value: Any) -> bytes:
    """RFC 8785 bytes of any JSON value, also of one that has none: integers beyond 2^53 - 1, NaN and
    infinities become strings, lone surrogates the replacement character. Evidence must not fail on them.
    """
    try:
        return canonical_json(value)
    except ManifestError:
        return canonical_json(_make_safe(value))


def _make_safe(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_make_safe(str(key)): _make_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_make_safe(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else str(value)
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


def read_canonical(data: bytes, what: str, *, code: str) -> Any:
    """The value of canonical JSON bytes; any other spelling of it is refused.

    Raises EvidenceError `<code>-invalid` (no JSON) or `<code>-not-canonical`; `what` opens the sentence.
    """
    if (simple := _read_simple(data)) is not _NOT_SIMPLE:
        return simple
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


def _read_simple(data: bytes) -> Any:
    """The value of what the standard library spells as RFC 8785 does, several times faster to tell.

    That holds for ASCII without fractions, exponents and integers of more than 15 digits.
    """
    if not data.isascii():
        return _NOT_SIMPLE
    try:
        value = _decode(data.decode("ascii"))
        return value if _encode(value).encode() == data else _NOT_SIMPLE
    except (ValueError, RecursionError):
        return _NOT_SIMPLE


def _refuse_float(text: str) -> float:
    raise ValueError(text)


def _read_short(text: str) -> int:
    if len(text) > _SHORT:
        raise ValueError(text)
    return int(text)


_NOT_SIMPLE: Final = object()
_SHORT: Final = 15
_decode: Final = json.JSONDecoder(parse_float=_refuse_float, parse_int=_read_short).decode
_encode: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode


def _spell(value: Any) -> bytes | None:
    try:
        return canonical_json(value)
    except ManifestError:
        return None


def _read_integer(text: str) -> int | float:
    value = int(text)
    return value if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else float(text)
