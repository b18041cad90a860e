"""The loop of `maestro dev`: takes pushes in, gives runs a process, looks after those processes.

It imports no Dagster: an idle pass costs a few stat calls, and whatever runs is forked from the server
in `zygote`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from maestro_dagster.errors import MaestroError
from maestro_dagster.events.refs import poll_repositories
from maestro_dagster.workers.dispatch import Dispatcher
from maestro_dagster.workers.guard import LoopGuard
from maestro_dagster.workers.intake import Intake, Say
from maestro_dagster.workers.zygote import PREPARE, ChildEvent, Zygote

GLANCE_SECONDS = 0.1  # between looks at the inbox's folder
PASS_SECONDS = 1.0  # between whole passes
POLL_SECONDS = 30.0  # between polls of repositories
MOST_SECONDS = 10.0  # between passes, after several that failed
DRAIN_SECONDS = 60.0  # that running runs get to end when the loop is asked to stop


@dataclass
class Loop:
    """`start_zygote` gives a fork server; it is asked again when one dies. `cancel` takes a run id."""

    guard: LoopGuard
    intake: Intake
    dispatcher: Dispatcher
    start_zygote: Callable[[], Zygote]
    cancel: Callable[[str], object]
    repositories: Sequence[str]
    say: Say
    watch: Callable[[], bool] = lambda: False  # called in each whole pass; True: the loop stops
    drain_seconds: float = DRAIN_SECONDS

    def __post_init__(self) -> None:
        self.zygote: Zygote | None = None
        self._stopping = 0
        self._passed = 0.0
        self._polled = 0.0
        self._failed = ""  # what the last pass said, if it failed
        self._pause = 0.0  # seconds, longer with each pass that fails
        self._again = 0.0  # when the next pass may begin
        self._ready = False
        self._selector = selectors.DefaultSelector()

    def run(self, zygote: Zygote, server: socket.socket) -> None:
        """Until SIGTERM or SIGINT. Then nothing new starts, and what runs may end in peace."""
        self._adopt(zygote)
        self._selector.register(server, selectors.EVENT_READ, self._answer)
        with _wakeups(self._stop) as wake:
            self._selector.register(wake, selectors.EVENT_READ, lambda _: os.read(wake, 4096))
            try:
                while not self._stopping:
                    self.turn(GLANCE_SECONDS)
                self._drain()
            finally:
                self._selector.unregister(wake)

    def turn(self, seconds: float) -> None:
        """Waits at most so long for something to happen, and acts on it."""
        for key, _ in self._selector.select(seconds):
            key.data(key.fileobj)
        now = time.monotonic()
        whole = now - self._passed >= PASS_SECONDS
        if now >= self._again:
            self._pass(now, whole=whole)
        if whole:
            self._passed = now
            if self.watch():
                self._stop()

    def _pass(self, now: float, *, whole: bool) -> None:
        taken = 0
        try:
            if whole or self.intake.has_drops():
                taken = self.intake.take(retry=now - self._polled >= POLL_SECONDS)
            if self.repositories and now - self._polled >= POLL_SECONDS:
                self._poll()
            if whole or taken:
                self.dispatcher.fill()
        except MaestroError as error:
            self._fail(str(error), now)
        else:
            if self._failed and (whole or taken):
                self._failed, self._pause = "", 0.0
                self.say("a pass succeeded again")
        if now - self._polled >= POLL_SECONDS:
            self._polled = now

    def _fail(self, why: str, now: float) -> None:
        """Said once until it changes: what lacks may lack for hours."""
        if why != self._failed:
            self.say(f"this pass failed and is repeated: {why}")
        self._failed = why
        self._pause = min(max(PASS_SECONDS, 2 * self._pause), MOST_SECONDS)
        self._again = now + self._pause

    def _adopt(self, zygote: Zygote) -> None:
        self.zygote = zygote
        self.dispatcher.starter = zygote
        self._selector.register(zygote, selectors.EVENT_READ, self._hear)

    def _hear(self, zygote: Zygote) -> None:
        for event in zygote.events():
            if event.event == "dead":
                self._selector.unregister(zygote)
                zygote.stop()
                self.dispatcher.forget_children()
                if not self._stopping:
                    self.say("the fork server died; another is started")
                    self._adopt(self.start_zygote())
                return
            if event.event == "ready":
                zygote.submit(PREPARE)
            elif event.job == PREPARE:
                self._prepared(event)
            else:
                self.dispatcher.handle(event)
        if not self._stopping:
            self.dispatcher.fill()

    def _prepared(self, event: ChildEvent) -> None:
        """Dagster's databases are there, so the first push need not wait for them."""
        if event.event == "ended" and not self._ready:
            self._ready = True
            self.guard.set_ready()
            self.say(
                "ready" if event.code == 0 else "ready, but Dagster's storage is not; see logs/workers.log"
            )

    def _poll(self) -> None:
        found = poll_repositories(self.intake.inbox, self.repositories)
        for problem in found.problems:
            self.say(f"a repository cannot be polled: {problem}")
        if found.events:
            self.intake.take()

    def _answer(self, server: socket.socket) -> None:
        """A question of the run launcher: one line in, one line out."""
        with contextlib.suppress(OSError):
            client, _ = server.accept()
            with client:
                client.settimeout(1.0)
                data = b""
                while not data.endswith(b"\n") and len(data) < 4096:  # noqa: PLR2004 - questions are short
                    part = client.recv(4096)
                    if not part:
                        break
                    data += part
                client.sendall(json.dumps(self._obey(data)).encode() + b"\n")

    def _obey(self, data: bytes) -> dict[str, Any]:
        try:
            question = json.loads(data)
            if self._stopping:
                return {"ok": False, "error": "the loop is stopping"}
            if question["op"] == "launch":
                self.dispatcher.launch(str(question["id"]))
            elif question["op"] == "cancel":
                self._cancel(str(question["id"]), str(question.get("maestro", "")))
        except (ValueError, KeyError, TypeError, MaestroError) as error:
            return {"ok": False, "error": str(error)}
        return {"ok": True}

    def _cancel(self, dagster_run_id: str, run_id: str) -> None:
        if run_id:
            self.cancel(run_id)
            return
        pid = self.dispatcher.active.get(("dagster", dagster_run_id), 0)
        if pid and self.zygote is not None:
            self.zygote.kill(pid, signal.SIGTERM)

    def _stop(self) -> None:
        self._stopping += 1

    def _drain(self) -> None:
        """A second signal, or the end of the time, leaves the rest to the next start: it resumes them."""
        self.guard.clear()
        end = time.monotonic() + self.drain_seconds
        if self.dispatcher.active:
            self.say(f"stopping; {len(self.dispatcher.active)} runs get {self.drain_seconds:.0f} s to end")
        while self.dispatcher.active and self._stopping == 1 and time.monotonic() < end:
            for key, _ in self._selector.select(0.2):
                key.data(key.fileobj)
        for pid in list(self.dispatcher.active.values()):
            if pid and self.zygote is not None:
                self.zygote.kill(pid, signal.SIGKILL)
        if self.zygote is not None:
            self.zygote.stop()


@contextlib.contextmanager
def _wakeups(stop: Callable[[], None]) -> Iterator[int]:
    """Signals wake the selector: without this one could wait for the next turn."""
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    old = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    try:
        yield wake
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(wake)
        os.close(woken)
