"""What a process and its children print, on its way out: hidden line by line.

Steps are Python, and so are the libraries that they use: what they print passes no log of ours.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from maestro_dagster.telemetry.redaction import hide_printed

Hide = Callable[[str], str]
_EVERY = 0.2  # seconds until what was printed can be read
_CHUNK = 1024 * 1024
_LONGEST_LINE = 256 * 1024  # bytes; of a longer line the rest is left out
_END_OF_CUT = 64 * 1024  # characters that go with it: a secret may have begun there
_CUT = " [cut]\n"


class LineHider:
    """Takes bytes in pieces and gives whole lines back: half a secret is not recognised."""

    def __init__(self, hide: Hide) -> None:
        self._hide = hide
        self._rest = b""
        self._cutting = False

    def feed(self, data: bytes, *, last: bool = False) -> bytes:
        """What can be shown by now. With `last` it is all."""
        data = self._rest + data
        if self._cutting:
            _, found, data = data.partition(b"\n")
            self._cutting = not found
        end = len(data) if last else data.rfind(b"\n") + 1
        text = self._hide(data[:end].decode(errors="replace"))
        self._rest = data[end:]
        if len(self._rest) > _LONGEST_LINE:
            text += self._hide(self._rest.decode(errors="replace"))[:-_END_OF_CUT] + _CUT
            self._rest, self._cutting = b"", True
        return text.encode(errors="replace")


class HidingText:
    """A text stream in front of another."""

    def __init__(self, stream: IO[str], hide: Hide = hide_printed) -> None:
        self._stream = stream
        self._hide = hide

    def write(self, text: str) -> int:
        self._stream.write(self._hide(text))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def hide_output(hide: Hide = hide_printed, *, children: bool = False) -> Iterator[None]:
    """Within the block nothing that Python code prints shows a secret, on whatever stands behind.

    With `children` nor does what others print on the same descriptors: processes that are started, libraries
    in C. It comes a moment later.
    """
    with _take_descriptors(hide) if children else contextlib.nullcontext():
        out, err = _hiding(sys.stdout, hide), _hiding(sys.stderr, hide)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield


@contextlib.contextmanager
def _take_descriptors(hide: Hide) -> Iterator[None]:
    """They lead to a copier then; Python's own streams go on to where they led before."""
    copier = OutputCopier(hide)
    with contextlib.ExitStack() as taken:
        taken.callback(copier.stop)
        redirects: tuple[Any, ...] = (contextlib.redirect_stdout, contextlib.redirect_stderr)
        for stream, redirect in zip((sys.stdout, sys.stderr), redirects, strict=True):
            number = descriptor_of(stream)
            if number is None:
                continue
            stream.flush()
            kept = os.dup(number)
            taken.callback(os.close, kept)
            os.dup2(copier.open(None, kept).fileno(), number)
            taken.callback(os.dup2, kept, number)
            direct = open(  # noqa: SIM115 - closed by the next line
                kept, "w", buffering=1, encoding=stream.encoding, errors=stream.errors, closefd=False
            )
            taken.callback(_close_quietly, direct)
            taken.enter_context(redirect(direct))
        copier.start()
        yield


def descriptor_of(stream: Any) -> int | None:
    """None for a stream that has none, as in tests and where it was closed before we began."""
    try:
        return int(stream.fileno())
    except (OSError, AttributeError, ValueError):
        return None


def _close_quietly(stream: IO[str]) -> None:
    """Who reads it may have gone."""
    with contextlib.suppress(OSError):
        stream.close()


def _hiding(stream: IO[str] | None, hide: Hide) -> Any:
    """None where the descriptor was closed before we began."""
    return None if stream is None else HidingText(stream, hide)


class OutputCopier:
    """Descriptors to print to, and where hidden copies of that go.

    What is printed goes into files without a name, and a thread copies it from there. A pipe would do without
    files; but who holds the interpreter's lock while the pipe is full would wait for that thread for ever.
    """

    def __init__(self, hide: Hide = hide_printed) -> None:
        self._hide = hide
        self._copies: list[_Copy] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="maestro-output", daemon=True)

    def open(self, path: Path | None, mirror: int | None = None) -> IO[bytes]:
        """A file to print to instead of `path`, `mirror` or both; that is a descriptor, which stays open."""
        raw = tempfile.TemporaryFile(dir=path and path.parent)  # noqa: SIM115 - closed with the others
        handles = [] if mirror is None else [os.dup(mirror)]
        if path is not None:
            handles.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
        self._copies.append(_Copy(raw, handles, LineHider(self._hide)))
        return raw

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """When it returns, what was printed before has been copied."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        for copy in self._copies:
            copy.move(last=True)
            copy.close()

    def _run(self) -> None:
        while not self._stop.wait(_EVERY):
            for copy in self._copies:
                copy.move()


class _Copy:
    def __init__(self, raw: IO[bytes], handles: list[int], hider: LineHider) -> None:
        self._raw = raw
        self._handles = handles
        self._hider = hider
        self._offset = 0

    def move(self, *, last: bool = False) -> None:
        """A disk that is full loses lines, never runs."""
        with contextlib.suppress(OSError):
            while data := os.pread(self._raw.fileno(), _CHUNK, self._offset):
                self._offset += len(data)
                self._write(self._hider.feed(data))
        if last:
            self._write(self._hider.feed(b"", last=True))

    def close(self) -> None:
        self._raw.close()
        for handle in self._handles:
            os.close(handle)

    def _write(self, data: bytes) -> None:
        for handle in self._handles:
            with contextlib.suppress(OSError):
                left = data
                while left:
                    left = left[os.write(handle, left) :]
