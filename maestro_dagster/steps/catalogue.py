"""Which step kinds there are, found without importing any of them.

Built-in kinds stand in one table. Third parties add theirs by the entry point group `maestro.steps`;
the entry point's name is the kind's package URL without `pkg:`, so that a kind is found by name alone:

    [project.entry-points."maestro.steps"]
    "acme/translate@1.0.0" = "acme_steps.translate:Translate"

A third party cannot replace a built-in kind.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from maestro_dagster.errors import StepError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from maestro_dagster.steps.interface import StepKind

GROUP = "maestro.steps"

BUILT_IN = {
    f"pkg:{name}@1.0.0": f"maestro_dagster.steps.{target}"
    for name, target in {
        "http/get": "http_get:HttpGet",
        "http/request": "http_request:HttpRequest",
        "feed/parse": "feed_parse:FeedParse",
        "file/read": "file_read:FileRead",
        "file/write": "file_write:FileWrite",
        "text/template": "text_template:TextTemplate",
        "json/query": "json_query:JsonQuery",
        "tool/python": "tool_python:ToolPython",
        "shell/run": "shell_run:ShellRun",
        "git/checkout": "git_checkout:GitCheckout",
        "python/test": "python_test:PythonTest",
        "python/build": "python_build:PythonBuild",
        "llm/generate": "llm_generate:LlmGenerate",
        "llm/plan": "llm_plan:LlmPlan",
        "release/notes": "release_notes:ReleaseNotes",
        "sbom/cyclonedx": "sbom_cyclonedx:SbomCyclonedx",
        "scan/vulnerabilities": "scan_vulnerabilities:ScanVulnerabilities",
        "sign/artifact": "sign_artifact:SignArtifact",
        "publish/directory": "publish_directory:PublishDirectory",
        "deploy/directory": "deploy_directory:DeployDirectory",
        "control/branch": "control_branch:ControlBranch",
        "control/map": "control_map:ControlMap",
        "control/rate": "control_rate:ControlRate",
    }.items()
}

# Known without an import, because lint and `definitions` ask it of every step of every flow.
_JOURNAL_ONLY = "pkg:control/"


class Catalogue:
    """Finds kinds by their pinned package URL. Each kind is imported on first use and kept."""

    def __init__(self, built_in: dict[str, str] | None = None) -> None:
        self._built_in = BUILT_IN if built_in is None else built_in
        self._kinds: dict[str, StepKind[Any]] = {}
        self._schemas: dict[str, dict[str, Any]] = {}

    def uses(self) -> Iterable[str]:
        """Every kind that is installed, sorted."""
        return sorted({*self._built_in, *_entry_points()})

    def kind(self, uses: str) -> StepKind[Any]:
        """The kind behind `uses`. Raises StepError (`kind-unknown`, `kind-broken`)."""
        if uses not in self._kinds:
            self._kinds[uses] = self._load(uses)
        return self._kinds[uses]

    def config_schema(self, uses: str) -> dict[str, Any] | None:
        """JSON Schema 2020-12 of the kind's `with:`, or None when there is no such kind."""
        if uses not in self._schemas:
            if not self.has(uses):
                return None
            self._schemas[uses] = self.kind(uses).config.model_json_schema(by_alias=True)
        return self._schemas[uses]

    def is_asset(self, uses: str) -> bool:
        """Whether a step of this kind makes something that a person would want to find again."""
        if uses in self._built_in:
            return not uses.startswith(_JOURNAL_ONLY)
        return not self.has(uses) or self.kind(uses).asset

    def has(self, uses: str) -> bool:
        return uses in self._built_in or uses in _entry_points()

    def _load(self, uses: str) -> StepKind[Any]:
        if target := self._built_in.get(uses):
            module, _, name = target.partition(":")
            found: type[StepKind[Any]] = getattr(importlib.import_module(module), name)
            return found()
        if entry := _entry_points().get(uses):
            return _load_entry(uses, entry)
        raise unknown_kind(uses, self.uses())


def load_catalogue() -> Catalogue:
    """The catalogue of this installation, shared by the whole process."""
    return _shared()


@cache
def _shared() -> Catalogue:
    return Catalogue()


def unknown_kind(uses: str, available: Iterable[str]) -> StepError:
    """The error for a kind that is not installed, with what is nearest to it."""
    names = list(available)
    near = difflib.get_close_matches(uses, names, n=3, cutoff=0.5)
    offer = "did you mean " + " or ".join(near) if near else "installed are " + ", ".join(names)
    return StepError(
        f"there is no step kind {uses}",
        place=uses,
        remedy=f"{offer}; or install the package that provides it",
        code="kind-unknown",
    )


@cache
def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {f"pkg:{entry.name}": entry for entry in entry_points(group=GROUP)}


def _load_entry(uses: str, entry: EntryPoint) -> StepKind[Any]:
    from maestro_dagster.steps.interface import StepKind

    place = f"entry point {entry.value}"
    remedy = f"repair or remove the package {entry.dist.name}" if entry.dist else "repair the package"
    try:
        found = entry.load()
    except Exception as error:  # a third party's module may raise anything on import
        raise StepError(
            f"the step kind {uses} cannot be loaded: {type(error).__name__}: {error}",
            place=place,
            remedy=remedy,
            code="kind-broken",
        ) from error
    if not (isinstance(found, type) and issubclass(found, StepKind) and found.uses == uses):
        raise StepError(
            f"the entry point for {uses} does not name a StepKind whose `uses` is {uses}",
            place=place,
            remedy=remedy,
            code="kind-broken",
        )
    return found()
