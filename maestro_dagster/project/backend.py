"""What the server of `maestro dev` serves of a project: deliveries taken in, metrics, whether it is ready."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from maestro_dagster.errors import MaestroError
from maestro_dagster.project.root import Project

if TYPE_CHECKING:
    from maestro_dagster.events.interface import RepositoryEvent
    from maestro_dagster.events.late import LateEvents


class Delivery(Protocol):
    """One delivery of a forge that was verified: its id, the events in it, what else there is to tell."""

    @property
    def delivery_id(self) -> str: ...
    @property
    def events(self) -> Sequence[RepositoryEvent]: ...


_CHECK_SECONDS = 2.0
_LATE_SECONDS = 2.0  # between tries to hand over what the inbox could not take


@dataclass(frozen=True, slots=True)
class Backend:
    """Everything that routes need; each may be called from several threads.

    Args:
        receive: name of the URL, headers (lower case), raw body -> Delivery. Raises EventError.
        accept: events -> which were new; durable when it returns. Raises EventError.
        metrics: the text for Prometheus.
        checks: what holds, by name: `deliveries` (can be taken in), `forges` (their file is valid),
            `inbox` (can be reached), `loop` (runs).
        hide: a text without secrets and personal data, for logs and replies.
        observe: is told of each answer: method, route, status, seconds.
        hosts: names that the server may be called by, besides loopback names and addresses.
        log: the access log's file.

    """

    receive: Callable[[str, Mapping[str, str], bytes], Delivery]
    accept: Callable[[Sequence[RepositoryEvent]], Sequence[bool]]
    metrics: Callable[[], bytes]
    checks: Callable[[], Mapping[str, bool]]
    log: Path
    hide: Callable[[str], str] = lambda text: text
    observe: Callable[[str, str, int, float], None] = lambda *_: None
    hosts: Sequence[str] = field(default=())


def open_backend(project: Project) -> Backend:
    """The backend of a project. The inbox is opened; forges are read when a delivery comes."""
    from maestro_dagster.events.late import LateEvents
    from maestro_dagster.project.intake import open_inbox
    from maestro_dagster.project.metric import open_metrics
    from maestro_dagster.project.redaction import open_redactor
    from maestro_dagster.project.webhook import ForgeFile, open_receiver

    redactor = open_redactor(project)
    inbox = open_inbox(project)

    metrics = open_metrics(project, inbox, redactor)

    late = LateEvents(project.inbox / "late", inbox.accept)
    _hand_over_later(late)
    forges = ForgeFile(project)

    def accept(events: Sequence[RepositoryEvent]) -> Sequence[bool]:
        found = late.accept(events)
        with contextlib.suppress(OSError):  # it comes by itself a second later
            os.utime(inbox.folder / "new")  # what the loop of this machine looks at ten times a second
        return found

    def checks() -> Mapping[str, bool]:
        from maestro_dagster.workers.guard import is_loop_ready

        reached = _holds(lambda: inbox.recent(1) is not None)
        # An inbox of files lies on the disk that the late ones lie on, and one elsewhere gets nothing while
        # others wait for it.
        elsewhere = project.settings.database is not None and reached and not late.is_waiting()
        readable = _holds(lambda: forges.read() is not None)
        return {
            "deliveries": readable and (elsewhere or _holds(late.can_keep)),
            "forges": readable,
            "inbox": reached,
            "loop": is_loop_ready(project.home),
        }

    (project.home / "logs").mkdir(parents=True, exist_ok=True)
    return Backend(
        receive=open_receiver(project, learn=redactor.add_all),
        accept=accept,
        metrics=metrics.render,
        observe=metrics.requests.observe,
        checks=checks,
        log=project.home / "logs" / "access.ndjson",
        hide=redactor.hide_all,
        hosts=project.settings.server_hosts,
    )


def _hand_over_later(late: LateEvents) -> None:
    """Whatever waits gets into the inbox as soon as that is there, also if no other event comes."""

    def look() -> None:
        while True:
            if late.is_waiting():
                with contextlib.suppress(Exception):  # of whatever kind, it is tried again
                    late.hand_over()
            time.sleep(_LATE_SECONDS)

    threading.Thread(target=look, name="late-events", daemon=True).start()


def _holds(look: Callable[[], bool]) -> bool:
    """Within the time that whoever probes has: a database that is away would be waited for much longer."""
    held: list[bool] = []

    def act() -> None:
        with contextlib.suppress(MaestroError):
            held.append(look())

    thread = threading.Thread(target=act, name="check", daemon=True)
    thread.start()
    thread.join(_CHECK_SECONDS)
    return held == [True]
