"""From events to requested runs: every flow of the project whose `on:` wants the event, once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maestro_dagster.engine.interface import Cause, RunRequest
from maestro_dagster.errors import EventError, MaestroError
from maestro_dagster.events.filter import flow_wants
from maestro_dagster.events.inbox import Inbox
from maestro_dagster.events.interface import RepositoryEvent, run_id_for
from maestro_dagster.events.mirror import Mirrors
from maestro_dagster.events.refs import is_remote
from maestro_dagster.events.source import read_changed_paths, read_commit_facts, read_event_facts
from maestro_dagster.manifest.model import Flow

_BATCH = 200  # events in one durable write
_PUSHES = frozenset({"push", "tag"})
Request = Callable[[Sequence[RunRequest]], object]
Say = Callable[[str], None]


class FlowFolder:
    """The flows of a project, read again when a file changed. A broken file leaves the others usable."""

    def __init__(self, files: Callable[[], Iterable[Path]], read: Callable[[Path], Flow], say: Say) -> None:
        self._files = files
        self._read = read
        self._say = say
        self._known: dict[Path, tuple[tuple[int, int], Flow | None]] = {}

    def flows(self) -> tuple[Flow, ...]:
        """Flows that can be read, in the order of their files; of two with one name the first."""
        found: dict[str, Flow] = {}
        known: dict[Path, tuple[tuple[int, int], Flow | None]] = {}
        for path in self._files():
            try:
                status = path.stat()
            except OSError:
                continue
            mark = (status.st_mtime_ns, status.st_size)
            before = self._known.get(path)
            known[path] = before if before and before[0] == mark else (mark, self._try(path))
            flow = known[path][1]
            if flow is not None:
                found.setdefault(flow.name, flow)
        self._known = known
        return tuple(found.values())

    def _try(self, path: Path) -> Flow | None:
        try:
            return self._read(path)
        except MaestroError as error:
            self._say(f"{path} is left out: {error}")
            return None


@dataclass
class Intake:
    """`request` writes requests durably and ignores those that are known.

    `mirrors` have the remote repositories; an event waits in the inbox until its own is there. `locate` says
    anew at each try where that is: what an event was told may have been wrong. `released` hears of releases.
    """

    inbox: Inbox
    flows: FlowFolder
    request: Request
    say: Say
    mirrors: Mirrors
    default_branch: str = "main"
    region: str | None = None
    locate: Callable[[RepositoryEvent], RepositoryEvent] = lambda event: event
    released: Callable[[RepositoryEvent], object] = lambda _: None

    def __post_init__(self) -> None:
        self._stamp = -1
        self._missing: set[str] = set()  # repositories that are not there now

    def has_drops(self) -> bool:
        """Whether something was dropped, or a mirror came to have it, since the last pass.

        One stat call, so it may be asked often.
        """
        return self.mirrors.has_news() or _stamp(self.inbox.folder / "new") != self._stamp

    def take(self, *, retry: bool = False) -> int:
        """One pass over the inbox; gives how many runs were requested.

        Run ids follow from event and flow, so a pass that died between the request and the note
        repeats nothing. `retry` asks again for repositories that were missing.
        """
        self._stamp = _stamp(self.inbox.folder / "new")
        self.inbox.ingest()
        if retry:
            self._missing.clear()
        count = 0
        events = [event for event in self.inbox.pending() if event.repository not in self._missing]
        flows = self.flows.flows() if events else ()
        for start in range(0, len(events), _BATCH):
            count += self._take_batch(events[start : start + _BATCH], flows)
        return count

    def _take_batch(self, events: Sequence[RepositoryEvent], flows: Sequence[Flow]) -> int:
        wanted: list[tuple[RepositoryEvent, list[RunRequest]]] = []
        for event in events:
            try:
                found = self._requests(event, flows)
                if found is not None:
                    wanted.append((event, found))
            except EventError as error:
                self._missing.add(event.repository)
                self.say(f"the {event.kind} {event.event_id} waits: {_explain(event, error)}")
        requests = [request for _, found in wanted for request in found]
        if requests:
            self.request(requests)
        self.inbox.mark_all_requested(
            {event.event_id: [request.run_id for request in found] for event, found in wanted}
        )
        for event, _ in wanted:
            if event.kind == "release":
                self._release(event)
        return len(requests)

    def _release(self, event: RepositoryEvent) -> None:
        try:
            self.released(event)
        except MaestroError as error:
            self.say(f"the evidence of {event.branch} waits for its next try: {error}")

    def _requests(self, event: RepositoryEvent, flows: Sequence[Flow]) -> list[RunRequest] | None:
        """None: what the event is about is still being fetched."""
        try:
            wanting = [
                flow for flow in flows if flow_wants(flow, event, lambda: self._changed(self.locate(event)))
            ]
            git = self._facts(self.locate(event)) if wanting else {}
        except _NotYet:
            return None
        cause: Cause = "poll" if event.source == "poll" else "push" if event.kind in _PUSHES else "event"
        return [
            RunRequest(
                run_id=run_id_for(event.event_id, flow.name),
                flow=flow,
                git=git,
                partition=event.partition,
                cause=cause,
                # A forge says who did it; the author of a commit is whoever the commit says.
                actor=str(event.facts.get("actor") or git.get("author", "")),
                region=self.region,
            )
            for flow in wanting
        ]

    def _changed(self, event: RepositoryEvent) -> Sequence[str]:
        told = event.facts.get("changed_paths")
        if isinstance(told, list | tuple):
            return [str(path) for path in told]
        where = self._where(event)
        try:
            return read_changed_paths(event, where, self.default_branch)
        except EventError as error:
            if error.error_code == "repository-missing":
                raise
            self.say(f"the files of the {event.kind} {event.event_id} cannot be read: {error}")
            return ()

    def _facts(self, event: RepositoryEvent) -> dict[str, str]:
        """An event whose commit is gone still gets its run, which fails with a receipt: nothing is lost."""
        facts = read_event_facts(event)
        if event.kind == "delete" and is_remote(event.repository):
            return facts  # a fetch brings nothing of what is gone
        where = self._where(event)
        try:
            return facts | read_commit_facts(event, where)
        except EventError as error:
            if error.error_code == "repository-missing":
                raise
            if event.kind != "delete":
                self.say(f"the {event.kind} {event.event_id}: {error}")
            return facts

    def _where(self, event: RepositoryEvent) -> str:
        """The folder that is read. Raises _NotYet, and EventError when it cannot be fetched."""
        if not is_remote(event.repository):
            return event.repository
        found = self.mirrors.find(event)
        if found is None:
            raise _NotYet
        return str(found)


def _explain(event: RepositoryEvent, error: EventError) -> EventError:
    """A webhook's repository is named elsewhere than those that are polled or have a hook."""
    if event.source != "webhook" or error.error_code != "repository-missing":
        return error
    remedy = f"correct `clone` of {event.name} in resources/forges.yaml; the event is tried again by itself"
    return EventError(error.fact, place=error.place, remedy=remedy, code=error.error_code)


class _NotYet(Exception):  # noqa: N818 - no error: it waits
    pass


def _stamp(folder: Path) -> int:
    try:
        return os.stat(folder).st_mtime_ns  # noqa: PTH116 - asked ten times a second
    except OSError:
        return 0
