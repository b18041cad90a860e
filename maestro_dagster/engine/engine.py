"""The engine: what may be asked of it, and by whom. Everything durable stands in its journal.

A run goes request -> admit -> stream_segment (once per segment, again after a crash) -> close. Each of
these may be repeated: what is done stays done.
"""

from __future__ import annotations

import asyncio
import queue
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from maestro_dagster.engine.interface import RunRequest, RunView, StepOutcome
from maestro_dagster.engine.log import read_log
from maestro_dagster.engine.process import mark_process
from maestro_dagster.engine.row import FINAL, RunRow, StepRow, hide_git
from maestro_dagster.engine.services import Services
from maestro_dagster.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from maestro_dagster.artifacts.interface import Artifact
    from maestro_dagster.engine.admission import Assessment
    from maestro_dagster.engine.segment import Segment
    from maestro_dagster.manifest.model import Flow
    from maestro_dagster.policy.interface import Decision

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Engine:
    """Runs flows with the neighbours in `services`. Safe between threads; one per process is enough."""

    def __init__(self, services: Services, *, chance: Callable[[], float] = random.random) -> None:
        self.services = services
        self._chance = chance  # of the waiting between attempts, in [0, 1)

    # Asking

    def request(self, request: RunRequest) -> bool:
        """Durable when it returns. False when a run of this id was known already: nothing changes then."""
        return self.request_many((request,))[0]

    def request_many(self, requests: Sequence[RunRequest]) -> list[bool]:
        """Many requests at the price of one wait for the disk; which of them are new."""
        for request in requests:
            _check_request(request)
        return self.services.journal.request(requests)

    def plan(self, request: RunRequest) -> Assessment:
        """What admission would say. Writes nothing."""
        from maestro_dagster.engine.admission import assess

        return assess(self.services, request)

    def check_key(self) -> None:
        """Raises KeyMissingError: what cannot be signed is not even asked for."""
        from maestro_dagster.engine.closing import no_key

        if self.services.signer is None:
            raise no_key(self.services)

    def admit(self, run_id: str) -> Decision:
        """The decision on a run, made once. A denied run is closed, with evidence; no step starts here.

        Raises KeyMissingError before anything is decided: what cannot be signed is not run.
        """
        from maestro_dagster.engine.admission import assess, decision_from_json
        from maestro_dagster.engine.closing import close_run, no_key
        from maestro_dagster.engine.redaction import hide_decision, learn_secrets
        from maestro_dagster.engine.trace import record_admission
        from maestro_dagster.policy.interface import Decision

        run = self.services.journal.run(run_id)
        if run.decision is None and run.status in FINAL:
            # Given up before anybody decided: its evidence says so, and nobody may decide any more.
            return Decision(allow=False, verdicts=(), engine="", input_digest="")
        if run.decision is None:
            if self.services.signer is None:
                raise no_key(self.services, run_id)
            start = time.time_ns()
            request = self._request_of(run)
            assessment = assess(self.services, request)
            learn_secrets(self.services, run, request.flow, assessment.steps)
            decision = hide_decision(self.services, assessment.decision.to_json())
            # The operator's files as they are now: what they are at the end may differ.
            pinned = {**decision, "pins": dict(self.services.pins)}
            if self.services.journal.decide(run_id, pinned):
                record_admission(self.services, run_id, decision, start)
            run = self.services.journal.run(run_id)
        stored = decision_from_json(run.decision or {})
        if not stored.allow:
            close_run(self.services, run_id)
        return stored

    # Running

    def stream_segment(
        self, run_id: str, step_ids: Sequence[str], *, assets: Mapping[str, Artifact] | None = None
    ) -> Iterator[StepOutcome]:
        """Runs these steps and yields each one's end when the journal has acknowledged it.

        Steps that ended before are yielded first, with `fresh=False`, and do not run. `assets` gives the
        content of Dagster assets that steps name, by key ("a/b"). Ending the iteration early interrupts
        what runs; it can be resumed. Raises DeniedError, JournalError (`run-closed`, `step-elsewhere`,
        `need-unfinished`).
        """
        from maestro_dagster.engine.opening import open_segment

        owner = f"{mark_process()}#{secrets.token_hex(4)}"
        self.admit(run_id)
        ended, segment, emitted = open_segment(
            self.services, run_id, step_ids, owner=owner, assets=assets, chance=self._chance
        )
        yield from ended
        if segment is not None:
            yield from self._drive(run_id, segment, owner, emitted)

    def _drive(
        self, run_id: str, segment: Segment, owner: str, emitted: queue.SimpleQueue[Any]
    ) -> Iterator[StepOutcome]:
        """Runs the segment in a thread of its own, so that it goes on while the caller is busy."""
        limits, journal = self.services.limits, self.services.journal
        journal.take_lease(run_id, owner, limits.lease, exclusive=False)
        driver = _Driver(segment, emitted, lambda: journal.renew_lease(run_id, owner, limits.lease))
        driver.start(limits.lease / 3)
        try:
            while (item := emitted.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            driver.stop()
            journal.leave(run_id, owner)

    def cancel(self, run_id: str, why: str = "asked by the operator") -> bool:
        """Asks the run to end; whoever runs its steps sees it within a second. False when it has ended."""
        self.services.journal.run(run_id)
        return self.services.journal.cancel_run(run_id, why)

    def is_cancelled(self, run_id: str) -> bool:
        return self.services.journal.is_cancelled(run_id) is not None

    def close(self, run_id: str) -> Path:
        """Ends the run and gives the path of its evidence; again, the same path and bytes."""
        from maestro_dagster.engine.closing import close_run

        return close_run(self.services, run_id)

    # Looking

    def view(self, run_id: str) -> RunView:
        run = self.services.journal.run(run_id)
        return self._view(run, self.services.journal.steps(run_id))

    def list_runs(self, limit: int = 50, status: str | None = None) -> list[RunView]:
        """Newest first."""
        journal = self.services.journal
        return [self._view(run, journal.steps(run.run_id)) for run in journal.runs(limit, status)]

    def outcome(self, run_id: str, step: str) -> StepOutcome | None:
        """How a step ended; None while it has not."""
        rows = [row for row in self.services.journal.steps(run_id, step) if row.iteration < 0]
        return rows[0].to_outcome(fresh=False) if rows and rows[0].ended else None

    def flow(self, run_id: str) -> Flow:
        return self.services.journal.flow(self.services.journal.run(run_id).flow_digest)

    def params(self, run_id: str) -> Mapping[str, Any]:
        return self.services.journal.run(run_id).params

    def logs(self, run_id: str, step: str | None = None, *, offset: int = 0) -> Iterator[dict[str, Any]]:
        """Lines so far: ts, step, iteration, attempt, line, offset. Ask again from the last offset."""
        self.services.journal.run(run_id)
        return read_log(self.services.log_folder, run_id, step, offset)

    # Who works on what

    def add_dagster_run(self, run_id: str, dagster_run_id: str) -> None:
        self.services.journal.add_dagster_run(run_id, dagster_run_id)

    def dagster_runs(self, run_id: str) -> tuple[str, ...]:
        return self.services.journal.run(run_id).dagster_runs

    def requested(self) -> tuple[str, ...]:
        """Runs that nobody has begun or holds, oldest first."""
        return tuple(run_id for run_id, _, _ in self.services.journal.unheld("requested"))

    def orphaned(self) -> tuple[str, ...]:
        """Runs that were begun and that no living process holds, oldest first."""
        return tuple(run_id for run_id, _, _ in self.services.journal.unheld("running"))

    def take_lease(self, run_id: str, owner: str, *, begin: bool = False) -> bool:
        """Holds the run for `owner`; False when another living process does. Renew it within the limit.

        With `begin` the run is known as begun until it is released as `done`.
        """
        return self.services.journal.take_lease(run_id, owner, self.services.limits.lease, begin=begin)

    def renew(self, run_id: str, owner: str) -> bool:
        return self.services.journal.renew_lease(run_id, owner, self.services.limits.lease)

    def release(self, run_id: str, owner: str, *, done: bool = False) -> None:
        self.services.journal.release_lease(run_id, owner, done=done)

    def _request_of(self, run: RunRow) -> RunRequest:
        return RunRequest(
            run_id=run.run_id,
            flow=self.services.journal.flow(run.flow_digest),
            params=run.params,
            git=run.git,
            partition=run.partition,
            cause=run.cause,
            actor=run.actor,
            budget_nano=run.budget_nano,
            region=run.region,
            reuse_from=run.reuse_from,
            selection=run.selection,
        )

    def _view(self, run: RunRow, rows: Sequence[StepRow]) -> RunView:
        known = {row.step: row for row in rows if row.iteration < 0}
        flow = self.services.journal.flow(run.flow_digest)
        hide = self.services.redactor.hide
        steps = tuple(
            (known.get(task.id) or StepRow(step=task.id, uses=task.uses, status="waiting")).to_outcome(
                fresh=False
            )
            for task in flow.tasks
        )
        return RunView(
            run_id=run.run_id,
            flow=run.flow,
            flow_version=run.flow_version,
            flow_digest=run.flow_digest,
            status=run.status,
            cause=run.cause,
            # Here and not where it is shown: Dagster keeps both as partition, tags and metadata.
            partition=run.partition and hide(run.partition),
            git=hide_git(run.git, hide),
            requested_at=run.requested_at,
            started_at=run.started_at,
            finished_at=run.finished_at,
            steps=steps,
            evidence=run.evidence_path,
            decision=run.decision,
            error=run.error,
        )


class _Driver:
    """A thread with an event loop that runs one segment and renews its lease."""

    def __init__(
        self, segment: Segment, emitted: queue.SimpleQueue[Any], renew: Callable[[], object]
    ) -> None:
        self._segment = segment
        self._emitted = emitted
        self._renew = renew
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: asyncio.Task[None] | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="maestro-segment", daemon=True)
        self._every = 1.0

    def start(self, every: float) -> None:
        """`every`: seconds between renewals."""
        self._every = every
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Interrupts what still runs and waits for the thread."""
        loop, work = self._loop, self._work
        if loop is not None and work is not None and self._thread.is_alive():
            try:
                loop.call_soon_threadsafe(work.cancel)
            except RuntimeError:  # it ended in between
                return
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except asyncio.CancelledError:
            self._emitted.put(None)
        except BaseException as error:  # noqa: BLE001 - raised where the outcomes are read
            self._emitted.put(error)
        else:
            self._emitted.put(None)
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._work = asyncio.create_task(self._segment.run())
        renewing = asyncio.create_task(self._keep_lease())
        self._ready.set()
        try:
            await self._work
        finally:
            renewing.cancel()

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            self._renew()


def _check_request(request: RunRequest) -> None:
    if not _RUN_ID.fullmatch(request.run_id):
        raise UsageError(
            f"{request.run_id[:80]!r} cannot name a run",
            remedy="use up to 128 letters, digits, dots, underscores and dashes",
            code="run-id-invalid",
        )
    known = {task.id for task in request.flow.tasks}
    unknown = sorted(set(request.selection or ()) - known)
    if unknown:
        raise UsageError(
            f"the flow {request.flow.name} has no step {unknown[0]}",
            remedy=f"its steps: {', '.join(sorted(known))}",
            code="step-unknown",
        )
