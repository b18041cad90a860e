"""An engine on real neighbours, with small step kinds of its own; also imported by worker processes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.artifacts.store import open_store
from maestro_dagster.costs.rate import RateCard
from maestro_dagster.costs.spool import Spool
from maestro_dagster.engine.engine import Engine
from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.engine.journal import Journal
from maestro_dagster.engine.services import Limits, Services
from maestro_dagster.errors import KeyMissingError, StepError
from maestro_dagster.evidence.key import load_signer, make_key
from maestro_dagster.llm.interface import ModelUsage
from maestro_dagster.manifest.model import Flow
from maestro_dagster.manifest.normal import flow_from_normal, flow_json
from maestro_dagster.policy.document import build_document
from maestro_dagster.policy.interface import Decision, Verdict
from maestro_dagster.steps.catalogue import Catalogue
from maestro_dagster.steps.interface import (
    Effects,
    Network,
    ProjectView,
    StepConfig,
    StepContext,
    StepKind,
    StepResult,
)

REPOSITORY = Path(__file__).resolve().parents[3]
MAKE = "pkg:test/make@1.0.0"
CALL = "pkg:test/call@1.0.0"
TREE = "pkg:test/tree@1.0.0"


class MakeConfig(StepConfig):
    text: Any = ""
    json_: Any = None
    seconds: float = 0.0
    fail_first: int = 0  # how many attempts fail, in a way that may be tried again
    fail: str = ""  # fail for good with this text
    crash: bool = False
    witness: str = ""  # a file to which each run of the step appends its name
    secret: str = ""
    foreign: bool = False
    burn: float = 0.0  # CPU seconds
    bytes_in: int = 0
    scratch: bool = False
    media: str = "text/plain"


class Make(StepKind[MakeConfig]):
    """Makes text of its configuration and its inputs."""

    uses: ClassVar[str] = MAKE
    summary: ClassVar[str] = "Make text."
    config = MakeConfig

    def effects(self, config: MakeConfig) -> Effects:
        return Effects(runs_foreign_code=config.foreign)

    async def run(
        self, context: StepContext, config: MakeConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        bear_witness(config.witness, f"begin {context.step} {context.iteration}")
        if config.scratch:
            (context.scratch / "note").write_text(context.step)
        self._use(context, config)
        if config.seconds:
            await asyncio.sleep(config.seconds)
        self._fail(context, config)
        if config.json_ is not None:
            return StepResult(data=json.dumps(config.json_).encode(), media_type="application/json")
        parts = [str(config.text), *(f"{name}={inputs[name].digest[7:15]}" for name in sorted(inputs))]
        return StepResult(data=" ".join(parts).encode(), media_type=config.media, preview=str(config.text))

    def _use(self, context: StepContext, config: MakeConfig) -> None:
        if config.secret:
            value = context.secret(config.secret)
            context.log(f"the secret is {value}")
            if config.fail:
                raise StepError(f"{config.fail} {value}")
        if config.burn:
            burn(config.burn)
        if config.bytes_in:
            context.meter.add_network(config.bytes_in, 10)

    def _fail(self, context: StepContext, config: MakeConfig) -> None:
        if config.crash:
            raise ValueError("a bug")
        if config.fail:
            raise StepError(config.fail, remedy="do better", code="made-to-fail")
        if context.attempt <= config.fail_first:
            raise StepError.transient(f"attempt {context.attempt} fails", code="flaky")


class Call(StepKind[MakeConfig]):
    """Pretends to call a model: books the call as the hub does."""

    uses: ClassVar[str] = CALL
    summary: ClassVar[str] = "Call a model."
    config = MakeConfig

    async def run(
        self, context: StepContext, config: MakeConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        call = await context.ledger.intend("test", "small", 5000, reserved_tokens=30)
        await context.ledger.settle(call, ModelUsage(10, 20, cost_nano=4321))
        if context.attempt <= config.fail_first:
            raise StepError.transient("again", code="flaky")
        return StepResult(
            data=b"answer", media_type="text/plain", model={"provider": "test", "model": "small"}
        )


class MakeTree(StepKind[MakeConfig]):
    uses: ClassVar[str] = TREE
    summary: ClassVar[str] = "Make a folder."
    config = MakeConfig

    async def run(
        self, context: StepContext, config: MakeConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        folder = context.scratch / "out"
        (folder / "sub").mkdir(parents=True)
        (folder / "a").write_text("a")
        (folder / "sub" / "b").write_text("b")
        return StepResult(path=folder)


class Kinds:
    """The kinds above, and all that are built in."""

    def __init__(self) -> None:
        self._own: dict[str, StepKind[Any]] = {kind.uses: kind() for kind in (Make, Call, MakeTree)}
        self._built_in = Catalogue()

    def kind(self, uses: str) -> StepKind[Any]:
        return self._own.get(uses) or self._built_in.kind(uses)


class AllowAll:
    def evaluate(self, document: Mapping[str, Any]) -> Decision:
        name = document["flow"]["name"]
        verdict = Verdict("test", "sha256:" + "0" * 64, allow=name != "denied", violations=())
        return Decision(verdict.allow, (verdict,), "test", "sha256:" + "1" * 64)

    def close(self) -> None: ...


class NoCage:
    def refusal(self) -> str | None:
        return "this is a test"

    async def run(self, command: Any) -> Any:
        raise NotImplementedError


def bear_witness(path: str, line: str) -> None:
    if path:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, line.encode() + b"\n")
        os.close(handle)


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(1000))


def make_services(home: Path, **changes: Any) -> Services:
    try:
        signer = load_signer(home / "keys")
    except KeyMissingError:
        make_key(home / "keys")
        signer = load_signer(home / "keys")
    values: dict[str, Any] = {
        "store": open_store(home / "artifacts"),
        "journal": Journal(home / "journal.sqlite"),
        "policy": AllowAll(),
        "signer": signer,
        "hub": None,
        "cage": NoCage(),
        "catalogue": Kinds(),
        "rates": RateCard.load(REPOSITORY / "resources" / "rates.yaml"),
        "spool": Spool(home / "spool"),
        "project": ProjectView(home, home / "cache", home / "advisories"),
        "network": Network(),
        "evidence_folder": home / "evidence",
        "scratch_folder": home / "scratch",
        "log_folder": home / "logs",
        "policy_document": build_document,
        "limits": Limits(backoff_first=0.01, cancel_poll=0.02),
    }
    return Services(**{**values, **changes})


def make_engine(home: Path, **changes: Any) -> Engine:
    return Engine(make_services(home, **changes))


def make_flow(*tasks: dict[str, Any], name: str = "small", **fields: Any) -> Flow:
    """A flow in its normal form; a task without `uses` is of the kind test/make."""
    whole = [{"uses": MAKE, **task} for task in tasks]
    flow = Flow.model_validate({"name": name, "version": "1.0.0", "tasks": whole, **fields})
    return flow_from_normal(flow_json(flow))


def make_request(run_id: str, flow: Flow, **fields: Any) -> RunRequest:
    return RunRequest(run_id=run_id, flow=flow, **fields)


def all_steps(flow: Flow) -> tuple[str, ...]:
    return tuple(task.id for task in flow.tasks)
