"""Who works on a run: one process at a time, for as long as it says so."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from maestro_dagster.errors import JournalError, MaestroError

if TYPE_CHECKING:
    from maestro_dagster.engine.engine import Engine

_LOG = logging.getLogger(__name__)
RENEW_SECONDS = 5.0  # several times within the engine's lease


def lease_owner() -> str:
    """`<host>:<pid>:<mark>` of this process: containers may have both the same host name and pids."""
    return f"{socket.gethostname()}:{os.getpid()}:{_mark_start(os.getpid())}"


@cache
def _mark_start(pid: int) -> str:
    del pid  # a forked child is another owner
    return secrets.token_hex(4)


_held: set[tuple[int, str]] = set()  # (process, run)


def holds_lease(run_id: str) -> bool:
    """Whether this process holds the run."""
    return (os.getpid(), run_id) in _held


@contextmanager
def hold_lease(
    engine: Engine, run_id: str, owner: str | None = None, *, whole: bool = False
) -> Iterator[None]:
    """Holds the run for the time of the block, renewing in a thread.

    A block that does the `whole` run leaves a mark when it raises or its process dies.

    Raises JournalError `run-busy` when another process holds it.
    """
    owner = owner or lease_owner()
    if not engine.take_lease(run_id, owner, begin=whole):
        raise JournalError(
            f"another process works on the run {run_id}",
            place=f"run {run_id}",
            remedy="follow it with `maestro watch`, or stop it with `maestro cancel`",
            code="run-busy",
        )
    stop = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(engine, run_id, owner, stop), name=f"lease-{run_id}", daemon=True
    )
    renewing.start()
    _held.add((os.getpid(), run_id))
    done = False
    try:
        yield
        done = whole
    finally:
        _held.discard((os.getpid(), run_id))
        stop.set()
        renewing.join()
        engine.release(run_id, owner, done=done)


def _renew(engine: Engine, run_id: str, owner: str, stop: threading.Event) -> None:
    last = time.monotonic()
    while not stop.wait(RENEW_SECONDS):
        try:
            engine.renew(run_id, owner)
            last = time.monotonic()
        except MaestroError as error:
            _LOG.warning(
                "the lease of %s was not renewed for %.0f s: %s", run_id, time.monotonic() - last, error
            )
