"""evidence.zip as bytes: entries stored, sorted, dated 1980-01-01, fixed attributes, nothing else.

Written by hand because the standard library's writer may change between versions, and its reader
forgives much. A valid archive has one spelling: reading takes it apart, writes it anew and compares.
Format: PKWARE APPNOTE 6.3.3, sections 4.3.7, 4.3.12, 4.3.16; no ZIP64.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final
from zlib import crc32

from maestro_dagster.errors import EvidenceError

SIZE_LIMIT: Final = 256 * 1024 * 1024  # bytes of a whole archive; stored entries cannot grow on reading
ENTRY_LIMIT: Final = 20_000
NAME_LIMIT: Final = 200

_LOCAL: Final = struct.Struct("<4sHHHHHLLLHH")
_CENTRAL: Final = struct.Struct("<4sHHHHHHLLLHHHHHLL")
_END: Final = struct.Struct("<4sHHHHLLH")
_NEEDED: Final = 20
_MADE_BY: Final = (3 << 8) | 20  # Unix, so that the mode below is read
_DATE: Final = (1 << 5) | 1  # 1980-01-01
_MODE: Final = 0o100644 << 16


def write_archive(entries: Mapping[str, bytes]) -> bytes:
    """Raises EvidenceError `archive-too-large`."""
    parts: list[bytes] = []
    central: list[bytes] = []
    offset = 0
    for name in sorted(entries):
        data, encoded = entries[name], name.encode("ascii")
        check, size = crc32(data), len(data)
        local = _LOCAL.pack(b"PK\x03\x04", _NEEDED, 0, 0, 0, _DATE, check, size, size, len(encoded), 0)
        central.append(
            _CENTRAL.pack(
                b"PK\x01\x02", _MADE_BY, _NEEDED, 0, 0, 0, _DATE, check, size, size,
                len(encoded), 0, 0, 0, 0, _MODE, offset,
            )
            + encoded
        )  # fmt: skip
        parts += (local, encoded, data)
        offset += len(local) + len(encoded) + size
        if offset > SIZE_LIMIT or len(central) > ENTRY_LIMIT:
            raise EvidenceError(
                f"the evidence exceeds {SIZE_LIMIT} bytes or {ENTRY_LIMIT} files",
                remedy="split the flow",
                code="archive-too-large",
            )
    directory = b"".join(central)
    end = _END.pack(b"PK\x05\x06", 0, 0, len(central), len(central), len(directory), offset, 0)
    return b"".join((*parts, directory, end))


def read_archive(data: bytes) -> dict[str, bytes]:
    """The entries of an archive that `write_archive` could have written, and of no other.

    Raises EvidenceError: `archive-too-large`, `archive-invalid`, `archive-not-canonical` (compressed,
    encrypted, commented, padded, reordered, duplicate or otherwise foreign).
    """
    if len(data) > SIZE_LIMIT:
        raise EvidenceError(f"the bundle is larger than {SIZE_LIMIT} bytes", code="archive-too-large")
    entries: dict[str, bytes] = {}
    offset = 0
    while data[offset : offset + 4] == b"PK\x03\x04" and len(entries) <= ENTRY_LIMIT:
        if offset + _LOCAL.size > len(data):
            raise _invalid("it ends inside a header")
        header = _LOCAL.unpack_from(data, offset)
        size, name_size = header[8], header[9]
        start = offset + _LOCAL.size + name_size
        if header[2] & 1:
            raise _invalid("an entry is encrypted")
        if header[3] != 0 or name_size > NAME_LIMIT or start + size > len(data):
            raise _invalid("an entry is compressed, badly named or cut off")
        try:
            name = data[offset + _LOCAL.size : start].decode("ascii")
        except UnicodeDecodeError as error:
            raise _invalid("an entry has a name that is not ASCII") from error
        if name in entries:
            raise _invalid(f"the entry {name!r} occurs twice")
        entries[name] = data[start : start + size]
        offset = start + size
    if not entries:
        raise _invalid("it is not a ZIP archive")
    if write_archive(entries) != data:
        raise EvidenceError(
            "the archive is not as it was written: rebuilt from its entries, it differs",
            code="archive-not-canonical",
        )
    return entries


def _invalid(why: str) -> EvidenceError:
    return EvidenceError(f"the archive cannot be read: {why}", code="archive-invalid")
