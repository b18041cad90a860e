"""Files whose names carry their hash: compressed once, and kept by the browser for good.

Dagster's own server sends them as they are, 4.7 MB a page, and has them asked for at each visit.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import threading
from collections import OrderedDict
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response

from maestro_dagster.api.problem import ProblemError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_KEPT_BYTES = 48 * 1024 * 1024
_LEVEL = 9  # paid once
_PACKED = frozenset({".js", ".css", ".json", ".svg", ".map", ".txt", ".html", ".wasm", ".ttf", ".ico"})
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".woff2": "font/woff2"}
_HEADERS = {
    "cache-control": "public, max-age=31536000, immutable",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "vary": "accept-encoding",
}


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    packed: bool
    media_type: str
    tag: str


class HashedFiles:
    """Serves GET and HEAD of `prefix`/..., from `folder`. Files never change while the server runs."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder = folder.resolve()
        self._prefix = prefix
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, bool], _File] = OrderedDict()
        self._size = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        accepted = "gzip" in headers.get("accept-encoding", "").lower()
        name = scope["path"][len(self._prefix) :].lstrip("/")
        found = await run_in_threadpool(self._find, name, accepted)
        told = {**_HEADERS, "etag": found.tag, **({"content-encoding": "gzip"} if found.packed else {})}
        if found.tag in headers.get("if-none-match", ""):
            response = Response(status_code=HTTPStatus.NOT_MODIFIED, headers=told)
        else:
            response = Response(found.data, headers=told, media_type=found.media_type)
        if scope["method"] == "HEAD":
            response.body = b""
        await response(scope, receive, send)

    def _find(self, name: str, accepted: bool) -> _File:
        """Raises ProblemError (404)."""
        if {"", ".", ".."} & set(name.split("/")):  # one file under many names would be kept under each
            raise _missing()
        key = (name, accepted)
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
        made = self._read(name, accepted)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._size += len(made.data)
                while self._size > _KEPT_BYTES:
                    self._size -= len(self._kept.popitem(last=False)[1].data)
        return made

    def _read(self, name: str, accepted: bool) -> _File:
        try:
            path = (self._folder / name).resolve()
            if not (path.is_relative_to(self._folder) and path.is_file()):
                raise FileNotFoundError
            data = path.read_bytes()
        except (OSError, ValueError):  # ValueError: a NUL in the name
            raise _missing() from None
        suffix = path.suffix.lower()
        packed = accepted and suffix in _PACKED
        tag = hashlib.sha256(data).hexdigest()[:24]
        return _File(
            gzip.compress(data, _LEVEL, mtime=0) if packed else data,
            packed,
            _TYPES.get(suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream",
            f'"{tag}{"-gzip" if packed else ""}"',
        )


def _missing() -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, "not-found", "there is nothing here")
