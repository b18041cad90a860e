"""Digest texts: `sha256:<64 hex>`."""

from __future__ import annotations

import hashlib
import re

from maestro_dagster.errors import StoreError

CHUNK = 1024 * 1024
_TEXT = re.compile(r"sha256:[0-9a-f]{64}")


def digest_content(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def parse_digest(digest: str) -> str:
    """The hex part. Raises StoreError (`digest-malformed`): a digest becomes part of a path."""
    if not _TEXT.fullmatch(digest):
        raise StoreError(
            f"{digest[:80]!r} is not a digest",
            remedy="a digest is `sha256:` and 64 lowercase hexadecimal digits",
            code="digest-malformed",
        )
    return digest[7:]
