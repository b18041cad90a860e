"""A wheel's own description of itself (core metadata), read without unpacking or running anything."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from email.parser import BytesHeaderParser

from maestro_dagster.errors import StepError

MOST_BYTES = 4 * 1024**2


@dataclass(frozen=True, slots=True)
class WheelMetadata:
    name: str  # canonical
    version: str
    summary: str
    licence: str  # SPDX expression, else whatever text stands there
    is_expression: bool
    requires: tuple[str, ...]
    requires_python: str


def read_wheel_metadata(file_name: str, data: bytes, place: str) -> WheelMetadata:
    """Raises StepError (`wheel-invalid`)."""
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

    try:
        name, version, _, _ = parse_wheel_filename(file_name)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            (entry,) = (
                entry
                for entry in archive.infolist()
                if entry.filename.endswith(".dist-info/METADATA") and entry.filename.count("/") == 1
            )
            with archive.open(entry) as source:
                head = BytesHeaderParser().parsebytes(source.read(MOST_BYTES))
    except (InvalidWheelFilename, zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError) as error:
        raise _invalid(file_name, str(error) or "it has no METADATA", place) from error
    if canonicalize_name(str(head["Name"])) != name or str(head["Version"]) != str(version):
        raise _invalid(file_name, "its METADATA names another package or version", place)
    expression = str(head["License-Expression"] or "").strip()
    return WheelMetadata(
        name=name,
        version=str(version),
        summary=str(head["Summary"] or "").strip()[:500],
        licence=expression or str(head["License"] or "").strip().partition("\n")[0][:200],
        is_expression=bool(expression),
        requires=tuple(str(value) for value in head.get_all("Requires-Dist", [])),
        requires_python=str(head["Requires-Python"] or ""),
    )


def _invalid(file_name: str, why: str, place: str) -> StepError:
    return StepError(
        f"{file_name} is no proper wheel: {why}",
        place=place,
        remedy="build it again; the step that made it is at fault",
        code="wheel-invalid",
    )
