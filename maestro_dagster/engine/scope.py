"""What a step sees: its inputs, its `with:` with every expression resolved, and the digests of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.engine.row import RunRow, StepRow
from maestro_dagster.errors import ManifestError, StepError
from maestro_dagster.evidence.interface import InputRef
from maestro_dagster.manifest.canonical import canonical_json, digest_bytes
from maestro_dagster.manifest.expression import (
    GIT_FIELDS,
    Reference,
    parse_condition,
    references,
    references_of,
    resolve,
)
from maestro_dagster.manifest.expression import evaluate_condition as condition_holds
from maestro_dagster.manifest.model import Flow, Task

_LARGEST_OUTPUT = 4 * 1024 * 1024  # bytes of an output that expressions may look into
EMPTY_CONFIG = digest_bytes(b"{}")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step that may begin: resolved `with:`, inputs by name, and digests that tell whether it changed."""

    config: Mapping[str, Any]
    inputs: Mapping[str, Artifact]
    refs: tuple[InputRef, ...]
    config_digest: str
    input_digest: str


class RunScope:
    """The names that expressions of one run may use. `read` gives an artifact's content by digest."""

    def __init__(
        self, run: RunRow, flow: Flow, rows: Mapping[str, StepRow], read: Callable[[str], bytes]
    ) -> None:
        self._rows = rows
        self._read = read
        self._git = dict(run.git)
        self._names: dict[str, Any] = {
            "params": fill_params(flow, run.params),
            "git": {**dict.fromkeys(GIT_FIELDS, ""), **run.git} if run.git else {},
            "run": {"id": run.run_id},
        }

    def prepare(self, task: Task, assets: Mapping[str, Artifact], *, keep: tuple[str, ...] = ()) -> Prepared:
        """Raises ManifestError (`expression-unknown`, ...) or StepError (`asset-missing`).

        Keys of `with:` in `keep` stay as they are: a control/map resolves its inner `with` per item.
        """
        raw = {name: value for name, value in task.with_.items() if name not in keep}
        config = resolve(raw, self._names_for(references(raw))) if "${{" in str(raw) else raw
        config.update({name: task.with_[name] for name in keep if name in task.with_})
        inputs, refs = self._inputs(task, assets)
        return self.finish(task.uses, config, inputs, refs)

    def prepare_item(
        self, inner: tuple[str, Mapping[str, Any]], outer: Prepared, index: int, item: Any
    ) -> Prepared:
        """One iteration of a control/map: `inner` is the kind and its unresolved `with`."""
        uses, raw = inner
        names = {**self._names_for(references(raw)), "item": item, "index": index}
        return self.finish(uses, resolve(raw, names), outer.inputs, outer.refs)

    def holds(self, condition: str) -> bool:
        found = set(references_of(parse_condition(condition)))
        return condition_holds(condition, self._names_for(found))

    def finish(
        self,
        uses: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Artifact],
        refs: tuple[InputRef, ...],
    ) -> Prepared:
        config_digest = digest_bytes(canonical_json(config)) if config else EMPTY_CONFIG
        # The commit belongs to the input of every step: kinds read it without an expression.
        whole = [uses, config_digest, [[name, inputs[name].digest] for name in sorted(inputs)], self._git]
        return Prepared(config, inputs, refs, config_digest, digest_bytes(canonical_json(whole)))

    def _inputs(
        self, task: Task, assets: Mapping[str, Artifact]
    ) -> tuple[dict[str, Artifact], tuple[InputRef, ...]]:
        inputs: dict[str, Artifact] = {}
        refs: list[InputRef] = []
        for need in dict.fromkeys(task.needs):
            row = self._rows.get(need)
            if row is not None and row.artifact is not None and row.status in {"done", "reused"}:
                inputs[need] = row.artifact
                refs.append(InputRef(f"step:{need}", row.artifact.digest, row.artifact.media_type))
        for name, key in task.assets.items():
            artifact = assets.get(key)
            if artifact is None:
                raise StepError(
                    f"the asset {key} has no content that this run may read",
                    place=f"step {task.id}",
                    remedy=f"materialise {key} first",
                    code="asset-missing",
                )
            inputs[name] = artifact
            refs.append(InputRef(f"asset:{key}", artifact.digest, artifact.media_type))
        return inputs, tuple(refs)

    def _names_for(self, found: set[Reference]) -> dict[str, Any]:
        """The names with just those steps that are referred to: outputs are read only when wanted."""
        wanted: dict[str, bool] = {}
        for reference in found:
            if reference.step is not None:
                reads = len(reference.path) > 2 and reference.path[2] == "output"  # noqa: PLR2004
                wanted[reference.step] = wanted.get(reference.step, False) or reads
        if not wanted:
            return {**self._names, "steps": {}}
        steps = {step: self._step(step, reads=reads) for step, reads in wanted.items() if step in self._rows}
        return {**self._names, "steps": steps}

    def _step(self, step: str, *, reads: bool) -> dict[str, Any]:
        row = self._rows[step]
        artifact = row.artifact
        return {
            "status": row.status,
            "digest": artifact.digest if artifact else None,
            "output": self._output(step, artifact) if reads and artifact else None,
        }

    def _output(self, step: str, artifact: Artifact) -> Any:
        kind = artifact.media_type.partition(";")[0].strip()
        place = f"step {step}"
        if artifact.size > _LARGEST_OUTPUT:
            raise StepError(
                f"the output is too large for an expression: {artifact.size} bytes",
                place=place,
                remedy="read it as an input instead, or cut it down with json/query",
                code="output-large",
            )
        try:
            if kind == "application/json" or kind.endswith("+json"):
                return json.loads(self._read(artifact.digest))
            if kind.startswith("text/"):
                return self._read(artifact.digest).decode()
        except ValueError as error:
            raise StepError(
                f"the output says it is {kind} but cannot be read as such",
                place=place,
                code="output-unreadable",
            ) from error
        raise StepError(
            f"the output is {kind}, which expressions cannot look into",
            place=place,
            remedy="use steps.<id>.digest, or read it as an input",
            code="output-opaque",
        )


def fill_params(flow: Flow, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values and, for the others, the defaults (null where there is none)."""
    return {name: given.get(name, param.default) for name, param in flow.params.items()}


def digest_raw(task: Task) -> str:
    """Digest of `with:` as it stands, for steps that never came to resolve it."""
    try:
        return digest_bytes(canonical_json(task.with_))
    except ManifestError:
        return EMPTY_CONFIG
