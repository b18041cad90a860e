"""One attempt of one step: from its configuration to a result or an error, and what it used."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from maestro_dagster.artifacts.digest import digest_content
from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact
from maestro_dagster.costs.ledger import SpoolLedger
from maestro_dagster.engine.log import RunLog
from maestro_dagster.engine.meter import AttemptMeter, measure
from maestro_dagster.engine.row import RunRow
from maestro_dagster.engine.scope import Prepared
from maestro_dagster.engine.services import Services
from maestro_dagster.engine.traced import Note, TracedCage, TracedHub, note_nothing
from maestro_dagster.errors import MaestroError, StepError
from maestro_dagster.manifest.canonical import canonical_json
from maestro_dagster.manifest.model import Task
from maestro_dagster.steps.interface import Effects, Network, StepContext, StepKind, StepResult

_INLINE = 1024 * 1024  # bytes of data that are stored together with the acknowledgement
_FACTS = 64 * 1024
_PREVIEW = 4096


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is to be tried: a step, or one iteration of a control/map."""

    task: Task
    uses: str
    kind: StepKind[Any]
    prepared: Prepared
    iteration: int = -1


@dataclass(slots=True)
class Trial:
    """What came of an attempt. `data` is set while the artifact's content is not stored yet."""

    started_at: float
    cpu_ms: int = 0
    memory_kb_ms: int = 0  # 1000 bytes for a millisecond
    wall_ms: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    result: StepResult | None = None
    artifact: Artifact | None = None
    data: bytes | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: MaestroError | None = None
    retryable: bool = False
    cancelled: bool = False
    egress: tuple[str, ...] = ()
    isolation: str | None = None


class Attempt:
    """Builds what the kind needs, runs it under the time limit, and cleans up after it."""

    def __init__(
        self,
        services: Services,
        run: RunRow,
        assignment: Assignment,
        number: int,
        ledger: SpoolLedger,
        log: RunLog,
        note: Note = note_nothing,
    ) -> None:
        self._services = services
        self._run = run
        self._assignment = assignment
        self._number = number
        self._ledger = ledger
        self._note = note
        self._log = partial(
            log.write, step=assignment.task.id, iteration=assignment.iteration, attempt=number
        )
        self._redactor = services.redactor
        self._meter = AttemptMeter()
        self._secrets: tuple[str, ...] = ()

    async def run(self, cancelling: Callable[[], bool]) -> Trial:
        """Never raises for the step's own fault. CancelledError passes unless the run is being cancelled."""
        trial = Trial(time.time())
        began = time.monotonic()
        scratch = self._make_scratch()
        try:
            await self._try(trial, scratch)
        except asyncio.CancelledError:
            if not cancelling():
                raise
            trial.cancelled = True
        except (MaestroError, Exception, SystemExit) as error:  # noqa: BLE001 - a kind may raise anything
            self._fail(trial, error)
        finally:
            remove_folder(scratch)
        trial.cpu_ms = round(self._meter.cpu * 1000)
        trial.memory_kb_ms = round(self._meter.memory)  # a byte-second is a kB-millisecond
        trial.wall_ms = round((time.monotonic() - began) * 1000)
        trial.bytes_in, trial.bytes_out = self._meter.bytes_in, self._meter.bytes_out
        return trial

    async def _try(self, trial: Trial, scratch: Path) -> None:
        assignment = self._assignment
        kind, task = assignment.kind, assignment.task
        config = validate_config(kind, assignment.prepared.config, task.id)
        effects = kind.effects(config)
        self._secrets = tuple(dict.fromkeys((*task.secrets, *effects.secrets)))
        self._learn()
        trial.egress = task.egress or effects.egress
        context = self._context(scratch, trial.egress)
        limit = task.timeout_seconds or self._services.limits.default_timeout
        try:
            async with asyncio.timeout(limit) as clock:
                work = kind.run(context, config, assignment.prepared.inputs)
                result = await measure(work, self._meter)
        except TimeoutError as error:
            if not clock.expired():
                raise
            raise StepError.transient(
                f"the step took longer than {limit:g} s",
                place=self._place(),
                remedy="raise timeoutSeconds, or give the step less to do",
                code="step-timeout",
            ) from error
        await self._take(trial, result, effects, scratch)

    async def _take(self, trial: Trial, result: StepResult, effects: Effects, scratch: Path) -> None:
        if not isinstance(result, StepResult):
            raise StepError(
                f"the kind gave {type(result).__name__} instead of a StepResult",
                place=self._place(),
                code="result-invalid",
            )
        trial.facts = self._check_facts(result.facts)
        media_type = result.media_type
        if result.data is not None:
            if len(result.data) <= _INLINE:
                trial.data = result.data
                trial.artifact = Artifact(digest_content(result.data), media_type, len(result.data))
            else:
                store = self._services.store
                trial.artifact = await asyncio.to_thread(store.put_bytes, result.data, media_type)
        elif result.path is not None:
            trial.artifact = await asyncio.to_thread(self._store_path, result.path, scratch, media_type)
        elif result.artifact is not None:
            trial.artifact = result.artifact
        trial.isolation = result.isolation or (
            self._assignment.task.isolation if effects.runs_foreign_code else None
        )
        trial.result = result

    def _store_path(self, path: Path, scratch: Path, media_type: str) -> Artifact:
        if path.is_symlink() or not path.resolve().is_relative_to(scratch.resolve()):
            raise StepError(
                "the result lies outside the step's scratch folder",
                place=self._place(),
                remedy="copy it below `context.scratch`",
                code="result-outside",
            )
        if path.is_dir():
            stored = self._services.store.put_tree(path)
            return Artifact(stored.digest, TREE_MEDIA_TYPE, stored.size)
        return self._services.store.put_file(path, media_type)

    def _check_facts(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        if not facts:
            return {}
        facts = self._redactor.hide_in(dict(facts))
        if len(canonical_json(facts)) > _FACTS:
            raise StepError(
                f"the facts are larger than {_FACTS} bytes",
                place=self._place(),
                remedy="put what is large into the artifact",
                code="facts-large",
            )
        return facts

    def _context(self, scratch: Path, egress: tuple[str, ...]) -> StepContext:
        services, run, task = self._services, self._run, self._assignment.task
        iteration = self._assignment.iteration
        key = f"{run.run_id}/{task.id}/{iteration}"
        return StepContext(
            run_id=run.run_id,
            flow=run.flow,
            flow_version=run.flow_version,
            step=task.id,
            iteration=iteration,
            attempt=self._number,
            idempotency_key=digest_content(key.encode())[7:39],
            scratch=scratch,
            store=services.store,
            cage=TracedCage(services.cage),
            models=TracedHub(services.hub, self._note),
            ledger=self._ledger,
            meter=self._meter,
            network=Network(egress=egress, allow_private=services.network.allow_private),
            project=services.project,
            git=run.git,
            isolation=task.isolation,
            started_at=time.time(),
            log=self.log,
            secret=self._secret,
            signer=services.signer,
            region=run.region or services.region,
            acquire_rate=services.journal.acquire_rate,
        )

    def log(self, message: str) -> None:
        self._log(self._redactor.hide(str(message)))

    def preview(self, text: str) -> str:
        return self._redactor.hide(text).encode()[:_PREVIEW].decode(errors="ignore")

    def _learn(self) -> None:
        """Also the secrets that only the resolved configuration names, before the step can read them."""
        for name in self._secrets:
            try:
                value = self._services.secrets(name)
            except MaestroError:
                continue  # the step hears of it when it asks
            if value is not None:
                self._redactor.add(value)

    def _secret(self, name: str) -> str:
        if name not in self._secrets:
            raise StepError(
                f"the step may not read the secret {name}",
                place=self._place(),
                remedy=f"add `secrets: [{name}]` to the step",
                code="secret-undeclared",
            )
        value = self._services.secrets(name)
        if value is None:
            raise StepError(
                f"there is no secret {name}",
                place=self._place(),
                remedy=f"set it for this project, for example as MAESTRO_SECRET_{name.upper()}",
                code="secret-missing",
            )
        self._redactor.add(value)
        return value

    def _fail(self, trial: Trial, error: BaseException) -> None:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            error = StepError(
                "the disk is full",
                place=self._place(),
                remedy="free some space, then run `maestro retry`",
                code="disk-full",
            )
        if not isinstance(error, MaestroError):
            self.log("".join(traceback.format_exception(error)))
            error = StepError(
                f"the step ended with {type(error).__name__}: {error}",
                place=self._place(),
                remedy="`maestro logs` shows where",
                code="step-crashed",
            )
        plain = type(error)(
            self._redactor.hide(error.fact),
            place=self._redactor.hide(error.place),
            remedy=self._redactor.hide(error.remedy),
            code=error.error_code,
        )
        trial.error = plain
        trial.retryable = bool(getattr(error, "retryable", False))
        self.log(str(plain))

    def _place(self) -> str:
        return f"run {self._run.run_id}, step {self._assignment.task.id}"

    def _make_scratch(self) -> Path:
        assignment = self._assignment
        name = f"{assignment.task.id}.{assignment.iteration}.{self._number}"
        folder = self._services.scratch_folder / self._run.run_id / name
        folder.mkdir(mode=0o700, parents=True)
        return folder


def validate_config(kind: StepKind[Any], config: Mapping[str, Any], step: str) -> Any:
    """The kind's own model of `with:`. Raises StepError (`config-invalid`)."""
    try:
        return kind.config.model_validate(config)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "with"
        raise StepError(
            f"`with.{where}` is wrong: {first['msg']}",
            place=f"step {step}",
            remedy=f"`maestro schema {kind.uses}` shows what the kind takes",
            code="config-invalid",
        ) from None


def remove_folder(folder: Path) -> None:
    """Removes what foreign code may have made unremovable; what still stays goes with the run's folder."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return
    except OSError:
        for place, names, _ in os.walk(folder):
            for name in names:
                inner = Path(place, name)
                if not inner.is_symlink():
                    inner.chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)
