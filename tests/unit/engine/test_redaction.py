"""A secret is hidden in every step of the run, not only in the one that asked for it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from maestro_dagster.engine.engine import Engine
from maestro_dagster.engine.log import RunLog, log_path
from maestro_dagster.steps.catalogue import Catalogue
from maestro_dagster.steps.interface import Effects, StepConfig, StepKind, StepResult
from maestro_dagster.telemetry.redaction import HIDDEN, Redactor

VALUE = "s3cr3t-value"
PASS = "pkg:test/pass@1.0.0"
TELL = "pkg:test/tell@1.0.0"
ELSE = "pkg:test/else@1.0.0"


class PassConfig(StepConfig):
    token: str = ""
    keeper: Any = ""


class Pass(StepKind[PassConfig]):
    """Puts a secret into its artifact: its own output, which nobody rewrites."""

    uses = PASS
    config = PassConfig

    def effects(self, config: PassConfig) -> Effects:
        return Effects(secrets=(config.token,) if config.token else ())

    async def run(self, context: Any, config: PassConfig, inputs: Mapping[str, Any]) -> StepResult:
        value = context.secret(config.token or "token")
        return StepResult(data=value.encode(), media_type="text/plain")


class Tell(StepKind[PassConfig]):
    """Says its input wherever a step can say something; declares no secret."""

    uses = TELL
    config = PassConfig

    async def run(self, context: Any, config: PassConfig, inputs: Mapping[str, Any]) -> StepResult:
        text = context.store.read(inputs["first"].digest).decode() if "first" in inputs else config.keeper
        context.log(f"it is {text}")
        return StepResult(
            data=b"told",
            media_type="text/plain",
            facts={"said": text, text: 1},
            preview=f"it is {text}",
            model={"provider": "test", "model": text},
            warnings=(f"beware of {text}",),
        )


class Else(Tell):
    """Fails with its input."""

    uses = ELSE

    async def run(self, context: Any, config: PassConfig, inputs: Mapping[str, Any]) -> StepResult:
        raise RuntimeError(context.store.read(inputs["first"].digest).decode())


class Kinds:
    def __init__(self) -> None:
        self._own: dict[str, StepKind[Any]] = {kind.uses: kind() for kind in (Pass, Tell, Else)}
        self._built_in = Catalogue()

    def kind(self, uses: str) -> StepKind[Any]:
        return self._own.get(uses) or self._built_in.kind(uses)


Open = Callable[..., Engine]


def assert_hidden(engine: Engine, bundle: Path, *, artifacts: bool = True) -> None:
    engine.services.journal.close()
    with zipfile.ZipFile(bundle) as archive:
        for name in archive.namelist():
            assert VALUE.encode() not in archive.read(name), name
    home = engine.services.evidence_folder.parent
    for path in home.rglob("*"):
        if path.is_file() and not (artifacts and path.is_relative_to(home / "artifacts")):
            assert VALUE.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("first", [{"secrets": ["token"]}, {"with": {"token": "token"}}])
def test_a_later_step_cannot_say_what_an_earlier_one_read(
    open_engine: Open, support: ModuleType, first: dict[str, Any]
) -> None:
    engine = open_engine(secrets={"token": VALUE}.get, catalogue=Kinds())
    flow = support.make_flow(
        {"id": "first", "uses": PASS, **first},
        {"id": "tell", "uses": TELL, "needs": ["first"]},
        {"id": "else", "uses": ELSE, "needs": ["first"]},
    )
    engine.request(support.make_request("r1", flow))
    outcomes = {each.step: each for each in engine.stream_segment("r1", support.all_steps(flow))}
    bundle = engine.close("r1")
    assert outcomes["tell"].status == "done"
    assert outcomes["tell"].facts["said"] == HIDDEN
    assert outcomes["tell"].preview == f"it is {HIDDEN}"
    assert outcomes["else"].error
    assert VALUE not in json.dumps(outcomes["else"].error)
    assert_hidden(engine, bundle)


def test_a_resume_in_a_new_process_hides_it_too(
    open_engine: Open, support: ModuleType, tmp_path: Path
) -> None:
    flow = support.make_flow(
        {"id": "first", "uses": PASS, "secrets": ["token"]}, {"id": "tell", "uses": TELL, "needs": ["first"]}
    )
    before = open_engine(secrets={"token": VALUE}.get, catalogue=Kinds())
    before.request(support.make_request("r1", flow))
    assert next(before.stream_segment("r1", ["first"])).status == "done"
    before.services.journal.close()
    # Other services have a redactor that has met nothing, as in another process.
    after = open_engine(tmp_path, secrets={"token": VALUE}.get, catalogue=Kinds())
    (told,) = after.stream_segment("r1", ["tell"])
    assert told.facts["said"] == HIDDEN
    assert_hidden(after, after.close("r1"))


def test_a_parameter_that_is_a_secret_is_hidden_in_the_evidence(
    open_engine: Open, support: ModuleType
) -> None:
    engine = open_engine(secrets={"token": VALUE}.get, catalogue=Kinds())
    flow = support.make_flow(
        {"id": "tell", "uses": TELL, "with": {"keeper": "${{ params.word }}"}},
        {"id": "first", "uses": PASS, "secrets": ["token"], "needs": ["tell"]},
        params={"word": {}},
    )
    git = {"sha": "a" * 40, "ref": f"refs/heads/{VALUE}", "repository": "shop"}
    engine.request(support.make_request("r1", flow, params={"word": VALUE}, git=git, partition=VALUE))
    told = next(engine.stream_segment("r1", ["tell"]))
    assert told.facts["said"] == HIDDEN
    bundle = engine.close("r1")
    with zipfile.ZipFile(bundle) as archive:
        whole = b"".join(archive.read(name) for name in archive.namelist())
    assert VALUE.encode() not in whole
    assert HIDDEN.encode() in whole
    assert b"a" * 40 in whole


def test_a_secret_inside_a_map_and_one_for_an_odd_name(open_engine: Open, support: ModuleType) -> None:
    engine = open_engine(secrets={"token": VALUE}.get, catalogue=Kinds())
    flow = support.make_flow(
        {"id": "first", "uses": "pkg:test/make@1.0.0", "with": {"text": VALUE}},
        {"id": "tell", "uses": TELL, "needs": ["first"], "with": {"keeper": {"api_secret": "token"}}},
    )
    engine = open_engine(secrets={"token": VALUE}.get, catalogue=_with_make(support))
    engine.request(support.make_request("r1", flow))
    told = {each.step: each for each in engine.stream_segment("r1", support.all_steps(flow))}["tell"]
    assert told.facts["said"] == HIDDEN


def _with_make(support: ModuleType) -> Any:
    kinds = Kinds()
    kinds._own[support.MAKE] = support.Make()
    return kinds


def test_a_log_line_is_hidden_before_it_is_cut(tmp_path: Path) -> None:
    redactor = Redactor()
    redactor.add(VALUE)
    log = RunLog(tmp_path, "r", line_limit=8, file_limit=1000, redactor=redactor)
    log.write(f"key={VALUE}")
    log.close()
    assert "s3cr" not in log_path(tmp_path, "r").read_text()


def test_what_a_forge_told_is_shown_without_secrets_and_kept_as_it_is(
    engine: Engine, support: ModuleType
) -> None:
    token = "ghp_" + "a" * 36
    git = {"title": f"use {token}", "branch": token, "sha": "a" * 40, "event_id": "e" * 20}
    flow = support.make_flow({"id": "one"})
    engine.request(support.make_request("r1", flow, git=git, partition=f"shop@{token}"))
    view = engine.view("r1")
    assert view.git == {**git, "title": f"use {HIDDEN}", "branch": HIDDEN}
    assert view.partition == engine.list_runs()[0].partition == f"shop@{HIDDEN}"
    assert engine.services.journal.run("r1").git == git, "steps check out what was pushed"
