"""Artifacts as parameters of Python assets, and Python assets as inputs of flow steps."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg

from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact
from maestro_dagster.errors import JournalError, StoreError
from maestro_dagster.translate.adoption import MANUAL_PARTITION, adopted_run_id, newest_run
from maestro_dagster.translate.closing import read_sbom
from maestro_dagster.translate.event import RUN_TAG
from maestro_dagster.translate.python_asset import read_pointer, write_pointer
from maestro_dagster.translate.translator import FLOW_METADATA, ROLE_METADATA, STEP_METADATA

if TYPE_CHECKING:
    from maestro_dagster.engine.interface import RunView
    from maestro_dagster.translate.runtime import Runtime, RuntimeSource

FLOW_IO_KEY = "maestro_flow_io"
REF_METADATA = "maestro/ref"


class ArtifactIOManager(dg.IOManager):
    """Stores what Python assets return in the artifact store, and reads artifacts from it.

    A parameter gets the artifact of the newest succeeded run on the default branch, or on the ref
    (`repository@refs/heads/x`, `refs/heads/x`, or `manual`) that
    `AssetIn(metadata={"maestro/ref": ...})` names; within one run it gets that run's artifact.
    Its annotation decides what it is: `bytes` (the default), `str`, or `dict` and `list` from JSON.
    """

    def __init__(self, runtime: RuntimeSource) -> None:
        self._runtime = runtime

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Stores bytes, text or JSON values."""
        runtime = self._runtime()
        data, media_type = to_bytes(obj, "/".join(context.asset_key.path))
        artifact = runtime.engine.services.store.put_bytes(data, media_type)
        partition = context.partition_key if context.has_partition_key else None
        write_pointer(runtime.home, "/".join(context.asset_key.path), artifact, partition)
        context.add_output_metadata(
            {"digest": artifact.digest, "size": artifact.size, "media_type": media_type}
        )

    def load_input(self, context: dg.InputContext) -> Any:
        runtime = self._runtime()
        wanted = context.dagster_type.typing_type if context.dagster_type else bytes
        return from_bytes(self._read(context, runtime), wanted, context.asset_key)

    def _read(self, context: dg.InputContext, runtime: Runtime) -> bytes:
        key = "/".join(context.asset_key.path)
        upstream = context.upstream_output
        metadata = (upstream.definition_metadata or {}) if upstream else {}
        store = runtime.engine.services.store
        if STEP_METADATA not in metadata:
            return store.read(read_pointer(runtime.home, key, None).digest)
        view = self._run_of(context, runtime, str(metadata[FLOW_METADATA]))
        if metadata[ROLE_METADATA] == "step":
            return store.read(self._artifact(runtime, view, str(metadata[STEP_METADATA]), key).digest)
        bundle = runtime.engine.close(view.run_id)
        return bundle.read_bytes() if metadata[ROLE_METADATA] == "evidence" else read_sbom(bundle)

    def _artifact(self, runtime: Runtime, view: RunView, step: str, key: str) -> Artifact:
        outcome = runtime.engine.outcome(view.run_id, step)
        if outcome is None or outcome.artifact is None:
            raise StoreError(
                f"the step {step} made no artifact in the run {view.run_id}",
                place=f"asset {key}",
                remedy=f"run the flow {view.flow} again, or name another ref",
                code="artifact-missing",
            )
        if outcome.artifact.media_type == TREE_MEDIA_TYPE:
            raise StoreError(
                "the artifact is a folder, which cannot be a parameter",
                place=f"asset {key}",
                remedy="read it with `maestro_dagster.open_runtime().engine.services.store.export`",
                code="artifact-is-tree",
            )
        return outcome.artifact

    def _run_of(self, context: dg.InputContext, runtime: Runtime, flow: str) -> RunView:
        """The run whose artifact is meant: this one if it runs the flow, else the newest of the ref."""
        run = context.step_context.dagster_run
        own = run.tags.get(RUN_TAG) if run.tags.get("maestro/flow") == flow else None
        for candidate in filter(None, [own, adopted_run_id(run.run_id, flow)]):
            with suppress(JournalError):
                return runtime.engine.view(candidate)
        ref = str(
            (context.definition_metadata or {}).get(REF_METADATA, f"refs/heads/{runtime.default_branch}")
        )
        found = newest_on_ref(runtime, flow, ref)
        if found is None:
            raise StoreError(
                f"no succeeded run of {flow} on {ref}",
                place=f"asset {'/'.join(context.asset_key.path)}",
                remedy=f"run the flow first, or name a ref: AssetIn(metadata={{{REF_METADATA!r}: ...}})",
                code="run-missing",
            )
        return found


def newest_on_ref(runtime: Runtime, flow: str, ref: str) -> RunView | None:
    """The newest succeeded run of a flow on a ref. Runs of a flow without pushes belong to every ref."""
    if ref == MANUAL_PARTITION:
        return newest_run(runtime, flow, None)
    for view in runtime.engine.list_runs(limit=1000, status="succeeded"):
        if view.flow == flow and view.partition and ref in (view.partition, view.partition.partition("@")[2]):
            return view
    return None


def to_bytes(value: Any, place: str) -> tuple[bytes, str]:
    """(bytes, media type) of what a Python asset returned."""
    if isinstance(value, bytes):
        return value, "application/octet-stream"
    if isinstance(value, str):
        return value.encode(), "text/plain; charset=utf-8"
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode(), "application/json"
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"the value is neither bytes, text nor JSON: {error}",
            place=f"asset {place}",
            remedy="return bytes, str, or a value of dicts, lists, texts and finite numbers",
            code="value-unsupported",
        ) from error


def from_bytes(data: bytes, wanted: Any, key: dg.AssetKey) -> Any:
    """The artifact as the parameter's annotation wants it."""
    if wanted is bytes or wanted is Any or wanted is None:
        return data
    try:
        return data.decode() if wanted is str else json.loads(data)
    except ValueError as error:
        raise StoreError(
            f"the artifact is not {'UTF-8 text' if wanted is str else 'JSON'}: {error}",
            place=f"asset {'/'.join(key.path)}",
            remedy="annotate the parameter as bytes",
            code="artifact-type",
        ) from error


@cache
def flow_io_manager(runtime: RuntimeSource) -> dg.IOManagerDefinition:
    """One definition for all flows of a runtime: Dagster compares resources by identity."""
    return dg.IOManagerDefinition.hardcoded_io_manager(ArtifactIOManager(runtime))
