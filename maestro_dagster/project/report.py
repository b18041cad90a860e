"""Tells the forges of a project what came of their pushes, beside the loop and never in its way.

One thread moves what changed in the journal into the outbox, another sends what is due. Both are free to die
at any time: the outbox knows what is still to be done.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from maestro_dagster.errors import EventError, MaestroError

if TYPE_CHECKING:
    from maestro_dagster.events.forge import ForgeRepository
    from maestro_dagster.events.interface import RepositoryEvent
    from maestro_dagster.events.outbox import Outbox
    from maestro_dagster.events.report_call import Destination
    from maestro_dagster.events.report_send import Patience, Sender, Sent
    from maestro_dagster.project.root import Project
    from maestro_dagster.project.run_report import RunBook

PASS_SECONDS = 1.0
_FORGET_EVERY = 3600.0  # seconds
_FORGET_AFTER = 30 * 86400.0
_STOP_SECONDS = 5.0

Say = Callable[[str], None]


def open_outbox(project: Project) -> Outbox:
    """The outbox of a project: a file beside the inbox, or its database."""
    from maestro_dagster.events.outbox import TABLES, WORDING, Outbox
    from maestro_dagster.project.database import open_room, outbox_file

    database = open_room(project, "outbox", outbox_file(project), tables=TABLES, wording=WORDING)
    return Outbox(database)


def hurry_release(project: Project, event: RepositoryEvent) -> None:
    """The evidence of a tag need not wait for its next try when the forge tells of a release."""
    if not has_outbox(project):
        return
    outbox = open_outbox(project)
    try:
        outbox.hurry(event.name, event.branch, time.time())
    finally:
        outbox.close()


def has_outbox(project: Project) -> bool:
    """Whether anything can be in the outbox: looking makes no file."""
    from maestro_dagster.project.database import outbox_file

    return project.settings.database is not None or outbox_file(project).exists()


def check_reporting(project: Project) -> tuple[int, int]:
    """(how many repositories are reported to, how many reports were given up).

    Raises EventError (`forges-invalid`, `report-api`).
    """
    from maestro_dagster.events.report_desk import find_api
    from maestro_dagster.project.webhook import ForgeFile

    found = select_reported(ForgeFile(project).read())
    for forge in found:
        find_api(forge.name, forge.forge, forge.clone, forge.api)
    if not has_outbox(project):
        return len(found), 0
    outbox = open_outbox(project)
    try:
        return len(found), outbox.counts()["given-up"]
    finally:
        outbox.close()


def select_reported(forges: Iterable[ForgeRepository]) -> list[ForgeRepository]:
    """Those that have a token, at a forge that shows statuses."""
    from maestro_dagster.events.report_desk import can_report

    return [forge for forge in forges if forge.token and can_report(forge.forge)]


def open_reporter(
    project: Project, say: Say, *, book: RunBook | None = None, patience: Patience | None = None
) -> Reporter:
    """What reports for a project. Nothing is opened before a repository has a `token`."""
    from maestro_dagster.project.database import open_journal

    return Reporter(project, book or open_journal(project), say, patience)


class Reporter:
    """`start` it beside the loop, or call `collect` and `send` by hand."""

    def __init__(self, project: Project, book: RunBook, say: Say, patience: Patience | None = None) -> None:
        from maestro_dagster.project.redaction import open_redactor
        from maestro_dagster.project.run_report import Collector
        from maestro_dagster.project.webhook import ForgeFile

        settings, redactor = project.settings, open_redactor(project)
        self._project, self._say = project, say
        self._forges = ForgeFile(project)
        self._told: dict[str, str] = {}  # the last trouble that was said, by what it is of
        self._saying = threading.Lock()
        self.outbox = open_outbox(project)
        self._collector = Collector(
            book,
            self.outbox,
            public_url=settings.public_url,
            hide=redactor.hide_all,
            prefix="maestro" if settings.project_name == "default" else f"maestro/{settings.project_name}",
        )
        self._patience = patience
        self._sender: Sender | None = None
        self._destinations: dict[str, Destination] = {}
        self._stop = threading.Event()
        self._news = threading.Event()  # something is due: sending need not wait for its next pass
        self._threads: list[threading.Thread] = []
        self._sending: tuple[asyncio.AbstractEventLoop, asyncio.Task[list[Sent]]] | None = None
        self._forgot = 0.0

    def start(self) -> None:
        for act in (self.collect, self.send):
            thread = threading.Thread(
                target=self._repeat, args=(act,), name=f"report-{act.__name__}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """What is under way is given up and stays due; the next start goes on with it."""
        self._stop.set()
        self._news.set()
        sending = self._sending
        if sending is not None:
            with contextlib.suppress(RuntimeError):  # it ended just now
                sending[0].call_soon_threadsafe(sending[1].cancel)
        for thread in self._threads:
            thread.join(_STOP_SECONDS)

    def collect(self) -> int:
        """From the journal to the outbox; how many places shall look different now."""
        changed = self._collector.collect({forge.clone: forge.name for forge in self._reported()})
        if changed:
            self._news.set()
        if changed and time.monotonic() - self._forgot > _FORGET_EVERY:
            self._forgot = time.monotonic()
            self.outbox.forget(time.time() - _FORGET_AFTER)
        return changed

    def send(self) -> list[Sent]:
        """One batch of what is due; what came of it."""
        if not self._reported() or not self.outbox.has_due(time.time()):
            return []
        sent = asyncio.run(self._send())
        for one in sent:
            self._tell(one)
        if any(one.error is None for one in sent):
            self._news.set()  # there may be more than one batch
        return sent

    def find_destinations(self) -> dict[str, Destination]:
        """The repositories that are reported to. One whose `api` cannot be used is left out, and said."""
        from maestro_dagster.events.report_call import Destination
        from maestro_dagster.events.report_desk import find_api

        found = {}
        for forge in self._reported():
            try:
                api = find_api(forge.name, forge.forge, forge.clone, forge.api)
            except EventError as error:
                self._say_once(forge.name, str(error))
                continue
            found[forge.name] = Destination(forge.name, forge.forge, forge.repository, api)
        return found

    async def _send(self) -> list[Sent]:
        from maestro_dagster.events.report_send import Sender

        self._destinations.clear()
        self._destinations.update(self.find_destinations())
        if self._sender is None:
            self._sender = Sender(
                self.outbox,
                self._destinations,
                self._find_token,
                self._read_evidence,
                patience=self._patience,
            )
        task = asyncio.ensure_future(self._sender.send_due())
        self._sending = (asyncio.get_running_loop(), task)
        try:
            return await task
        except asyncio.CancelledError:
            return []
        finally:
            self._sending = None

    def _reported(self) -> list[ForgeRepository]:
        return select_reported(self._forges.read())

    def _find_token(self, name: str) -> str | None:
        from maestro_dagster.project.secret import secret_source

        find = secret_source(self._project.home)
        wanted = next((forge.token for forge in self._reported() if forge.name == name), None)
        return find(wanted) if wanted else None

    def _read_evidence(self, run_id: str) -> bytes:
        from maestro_dagster.evidence.store import EvidenceStore

        return EvidenceStore(self._project.evidence, self._project.evidence_url).read(run_id)

    def _repeat(self, act: Callable[[], object]) -> None:
        pause = self._news if act == self.send else self._stop
        while True:
            pause.wait(PASS_SECONDS)
            if self._stop.is_set():
                return
            if pause is self._news:
                pause.clear()
            try:
                act()
                self._told.pop(act.__name__, None)
            except MaestroError as error:
                self._say_once(act.__name__, f"reporting to forges waits: {error}")
            except Exception as error:  # noqa: BLE001 - the thread must not die of what one pass met
                self._say_once(act.__name__, f"reporting to forges waits: {type(error).__name__}")

    def _tell(self, sent: Sent) -> None:
        from maestro_dagster.events.report_call import NO_RELEASE

        if sent.error is None:
            if self._told.pop(sent.repository, None) is not None:
                self._say(f"{sent.repository} is reported to again")
            return
        if sent.error.error_code == NO_RELEASE:
            return  # a tag without a release is nothing unusual
        word = "is not shown" if sent.gave_up else "waits"
        self._say_once(sent.repository, f"a report to {sent.repository} {word}: {sent.error.fact}")

    def _say_once(self, about: str, text: str) -> None:
        """The same trouble is said once, not with every try, nor by each thread that meets it."""
        with self._saying:
            known = self._told.get(about) == text or text in self._told.values()
            self._told[about] = text
        if not known:
            self._say("".join(letter if letter.isprintable() else "?" for letter in text))
