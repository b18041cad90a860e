"""The three spellings of a flow, told apart, and each read into one document for the model.

tasks   `tasks:` with `needs`                     the canonical one
steps   `steps:` in order, `uses`, `context_from`  the pipeline form
nodes   `nodes:` and `edges:`                      flow.json
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from maestro_dagster.manifest.alias import resolve_alias
from maestro_dagster.manifest.document import DocumentError, Map, plain

Dialect = Literal["tasks", "steps", "nodes"]
DIALECTS: tuple[Dialect, ...] = ("tasks", "steps", "nodes")
Path = tuple[str | int, ...]

MAP_KIND = "pkg:control/map@1.0.0"


@dataclass(frozen=True, slots=True)
class Remark:
    """A finding of a reader, placed by a path in the source tree."""

    code: str
    message: str
    remedy: str
    path: Path
    severity: Literal["error", "warning"] = "error"
    of_key: bool = False


@dataclass(slots=True)
class Source:
    """A flow as a document for the model, and the way back from its paths to those of the text."""

    dialect: Dialect
    tree: Map
    document: dict[str, Any]
    origin: Callable[[Path], Path]
    remarks: list[Remark] = field(default_factory=list)

    def refuse(self, code: str, message: str, remedy: str, path: Path, *, of_key: bool = False) -> None:
        self.remarks.append(Remark(code, message, remedy, path, of_key=of_key))

    def warn(self, code: str, message: str, remedy: str, path: Path) -> None:
        self.remarks.append(Remark(code, message, remedy, path, severity="warning"))


def read_source(tree: Any) -> Source:
    """The document behind a parsed text, in whichever dialect. Raises DocumentError if it is in none."""
    from maestro_dagster.manifest.dialect_nodes import read_nodes
    from maestro_dagster.manifest.dialect_steps import read_steps
    from maestro_dagster.manifest.dialect_tasks import read_tasks

    readers: Mapping[Dialect, Callable[[Map], Source]] = {
        "tasks": read_tasks,
        "steps": read_steps,
        "nodes": read_nodes,
    }
    if not isinstance(tree, Map):
        what = "empty" if tree is None else "a list" if isinstance(tree, list) else "a single value"
        raise DocumentError(
            "not-a-flow",
            f"a flow is a map with `name`, `version` and `tasks`, this text is {what}",
            getattr(tree, "at", 0),
            "See `maestro schema`.",
        )
    return readers[detect_dialect(tree)](tree)


def detect_dialect(tree: Map) -> Dialect:
    """Which dialect a text is in. Raises DocumentError for none and for a mixture."""
    found = [dialect for dialect in DIALECTS if dialect in tree]
    if len(found) > 1:
        first, second = sorted(found, key=lambda dialect: tree.key_at[dialect])[:2]
        raise DocumentError(
            "dialect-mixed",
            f"the flow has both `{first}` and `{second}`, which are two ways to say one thing",
            tree.key_at[second],
            f"Keep one of them; `{found[0]}` if in doubt.",
        )
    if found:
        return found[0]
    if "edges" in tree:
        raise DocumentError(
            "dialect-mixed", "there are `edges` but no `nodes`", tree.key_at["edges"], "Add `nodes`."
        )
    raise DocumentError(
        "dialect-unknown",
        f"this is no flow: none of `tasks`, `steps` and `nodes` is among its keys ({_keys(tree)})",
        tree.at,
        _foreign(tree) or "List the steps under `tasks:`; see `maestro schema`.",
    )


def _keys(tree: Map) -> str:
    keys = [str(key)[:30] for key in list(tree)[:6]]
    return ", ".join(keys) + (", ..." if len(tree) > len(keys) else "") if keys else "it has none"


def _foreign(tree: Map) -> str:
    """A word for files that belong to somebody else."""
    if "jobs" in tree:
        return "`jobs` is the form of GitHub Actions; Maestro reads `tasks`, `steps` or `nodes`."
    if "apiVersion" in tree and "kind" in tree:
        return "This is a Kubernetes object; Maestro reads `tasks`, `steps` or `nodes`."
    return ""


def top_level(tree: Map, skip: frozenset[str]) -> dict[str, Any]:
    """Copies of the keys that all dialects share."""
    return {key: plain(value) for key, value in tree.items() if key not in skip}


def resolve_uses(task: dict[str, Any]) -> tuple[str, ...]:
    """Replaces an older name in `uses` by its pinned kind, within `control/map` too; gives further needs."""
    config = task.get("with", {})
    uses = task.get("uses")
    if not isinstance(uses, str) or not isinstance(config, dict):
        return ()
    needs: tuple[str, ...] = ()
    found = resolve_alias(uses, config)
    if found is not None:
        task["uses"], config, needs = found.uses, found.config, found.needs
        if config or "with" in task:
            task["with"] = config
    if task["uses"] == MAP_KIND and isinstance(config.get("uses"), str):
        inner = config.get("with", {})
        nested = resolve_alias(config["uses"], inner) if isinstance(inner, dict) else None
        if nested is not None:
            task["with"] = {**config, "uses": nested.uses, "with": nested.config}
            needs += nested.needs
    return needs


def add_needs(task: dict[str, Any], more: tuple[str, ...]) -> None:
    """Puts further needs behind those that are there, each once."""
    needs = task.get("needs", [])
    if more and isinstance(needs, list):
        task["needs"] = [*needs, *(need for need in dict.fromkeys(more) if need not in needs)]
