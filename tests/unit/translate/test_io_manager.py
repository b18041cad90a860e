from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.errors import StoreError
from maestro_dagster.translate.component import FlowComponent
from maestro_dagster.translate.flow import build_flow_assets
from maestro_dagster.translate.io_manager import ArtifactIOManager, from_bytes, newest_on_ref, to_bytes
from maestro_dagster.translate.python_asset import read_pointer
from maestro_dagster.translate.runtime import Runtime

Make = dict[str, Callable[..., Any]]
BODY = json.dumps({"n": 1})


def run_all(
    runtime: Runtime, instance: dg.DagsterInstance, flow: Any, *assets: Any
) -> dg.ExecuteInProcessResult:
    def source() -> Runtime:
        return runtime

    definitions = dg.Definitions(
        assets=[*build_flow_assets(flow, runtime=source), *assets],
        resources={"maestro_io": ArtifactIOManager(source)},
        executor=dg.in_process_executor,
    )
    job = definitions.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, raise_on_error=False)


def test_a_python_asset_reads_a_flows_artifact_as_it_wants_it(
    runtime: Runtime, instance: dg.DagsterInstance, make: Make
) -> None:
    seen: dict[str, Any] = {}
    flow = make["flow"]("source", make["text"]("page", BODY))
    here = {"page": dg.AssetIn(key=["source", "page"])}

    @dg.asset(ins=here, io_manager_key="maestro_io")
    def as_text(page: str) -> str:
        seen["text"] = page
        return page.upper()

    @dg.asset(ins=here)
    def as_dict(page: dict) -> None:  # type: ignore[type-arg]
        seen["dict"] = page

    @dg.asset(ins={**here, "bundle": dg.AssetIn(key=["source", "evidence"])})
    def as_bytes(page: bytes, bundle: bytes) -> None:
        seen["bytes"] = page
        seen["bundle"] = bundle[:2]

    assert run_all(runtime, instance, flow, as_text, as_dict, as_bytes).success
    assert seen == {"text": BODY, "dict": {"n": 1}, "bytes": BODY.encode(), "bundle": b"PK"}
    stored = read_pointer(runtime.home, "as_text", None)
    assert runtime.engine.services.store.read(stored.digest) == BODY.upper().encode()


def test_a_flow_step_needs_a_python_asset_by_key(
    runtime: Runtime, instance: dg.DagsterInstance, make: Make
) -> None:
    @dg.asset(key=["mine", "names"], io_manager_key="maestro_io")
    def names() -> list[str]:
        return ["Ada", "Grace"]

    query = {
        "id": "pick",
        "uses": "pkg:json/query@1.0.0",
        "assets": {"names": "mine/names"},
        "with": {"query": "[1]"},
    }
    flow = make["flow"]("needy", query)
    assert run_all(runtime, instance, flow, names).success
    view = runtime.engine.list_runs(1)[0]
    artifact = view.steps[0].artifact
    assert artifact is not None
    assert json.loads(runtime.engine.services.store.read(artifact.digest)) == "Grace"


def request(runtime: Runtime, flow: Any, run_id: str, partition: str | None) -> None:
    runtime.engine.request(RunRequest(run_id=run_id, flow=flow, partition=partition))
    list(runtime.engine.stream_segment(run_id, [task.id for task in flow.tasks]))
    runtime.engine.close(run_id)


def test_the_newest_succeeded_run_of_a_ref_is_meant_never_that_of_another(
    runtime: Runtime, make: Make
) -> None:
    flow = make["flow"]("branchy", make["text"]("a", "${{ run.id }}"), on=[{"event": "push"}])
    for number, branch in enumerate(["main", "topic", "main", "topic"]):
        request(runtime, flow, f"run-{number}", f"lib@refs/heads/{branch}")
    request(runtime, flow, "by-hand", None)

    def newest(ref: str) -> str | None:
        found = newest_on_ref(runtime, "branchy", ref)
        return found.run_id if found else None

    assert newest("refs/heads/main") == "run-2"
    assert newest("lib@refs/heads/topic") == "run-3"
    assert newest("manual") == "by-hand"
    assert newest("refs/heads/none") is None
    assert newest("other@refs/heads/main") is None


@pytest.mark.parametrize("value", [b"x", "x", {"a": [1, None]}, [1.5]])
def test_values_survive_the_store(value: Any) -> None:
    data, _ = to_bytes(value, "x")
    assert from_bytes(data, type(value), dg.AssetKey("x")) == value


def test_values_that_cannot_be_stored_or_read_say_what_can_be() -> None:
    with pytest.raises(StoreError, match="neither bytes, text nor JSON"):
        to_bytes(object(), "x")
    with pytest.raises(StoreError, match="not JSON"):
        from_bytes(b"{", dict, dg.AssetKey("x"))
    with pytest.raises(StoreError, match="not UTF-8"):
        from_bytes(b"\xff", str, dg.AssetKey("x"))


def test_a_component_gives_the_flow_and_its_job(tmp_path: Path, make: Make) -> None:
    flow = make["flow"]("declared", make["text"]("a", "x"))
    (tmp_path / "flow.json").write_text(flow.model_dump_json(by_alias=True, exclude_defaults=True))
    context = dg.ComponentTree.for_test().load_context
    component = FlowComponent(path=str(tmp_path / "flow.json"))
    definitions = component.build_defs(context)
    assert definitions.resolve_job_def("declared")
    keys = {key.to_user_string() for key in definitions.resolve_all_asset_keys()}
    assert keys == {"declared/a", "declared/evidence", "declared/sbom"}
