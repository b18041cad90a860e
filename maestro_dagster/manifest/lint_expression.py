"""Whether every `${{ }}` names something that will be there when its step runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from maestro_dagster.errors import ManifestError
from maestro_dagster.manifest.dialect import MAP_KIND, Path, Remark
from maestro_dagster.manifest.expression import (
    GIT_FIELDS,
    ROOTS,
    STEP_FIELDS,
    Expression,
    Literal,
    Reference,
    parse_condition,
    parse_template,
    references_of,
)
from maestro_dagster.manifest.lint_graph import ancestor_masks
from maestro_dagster.manifest.model import Flow, Task
from maestro_dagster.manifest.suggest import did_you_mean

_LONGEST_STEP_PATH = 2  # `steps`, id
Complaint = tuple[str, str, str]  # code, message, remedy


def check_expressions(flow: Flow) -> Iterator[Remark]:
    """Expressions that cannot be read, and names that are not there. The graph has to be sound."""
    lint = _Lint(flow)
    for number, task in enumerate(flow.tasks):
        config = task.with_
        if config:
            loop = task.uses == MAP_KIND
            for path, text in _texts(config, ("tasks", number, "with")):
                yield from lint.text(text, path, task, in_loop=loop and path[3:4] == ("with",))
        if task.if_ is not None:
            yield from lint.condition(task.if_, ("tasks", number, "if"), task)


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Every text with an expression in a JSON value, and its path."""
    if isinstance(value, str):
        if "${{" in value:
            yield path, value
    elif isinstance(value, dict):
        for key, each in value.items():
            if type(each) in (str, dict, list):
                yield from _texts(each, (*path, key))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _texts(each, (*path, number))


class _Lint:
    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.numbers = {task.id: number for number, task in enumerate(flow.tasks)}
        self.masks: dict[str, int] | None = None
        self.checkers: Mapping[str, Callable[[Reference, Task], Complaint | None]] = {
            "params": self.param,
            "steps": self.step,
            "git": self.git,
            "run": self.run,
        }

    def text(self, text: str, path: Path, task: Task, *, in_loop: bool) -> Iterator[Remark]:
        try:
            parts = parse_template(text)
        except ManifestError as error:
            yield Remark(error.error_code, error.fact, error.remedy, path)
            return
        for part in parts:
            if not isinstance(part, str):
                yield from self.names(part, path, task, in_loop=in_loop)

    def condition(self, text: str, path: Path, task: Task) -> Iterator[Remark]:
        try:
            tree = parse_condition(text)
        except ManifestError as error:
            yield Remark(error.error_code, error.fact, error.remedy, path)
            return
        if isinstance(tree, Literal) and isinstance(tree.value, str):
            yield Remark(
                "expression", "the condition is a text, which always holds", "Remove the quotes.", path
            )
        yield from self.names(tree, path, task, in_loop=False)

    def names(self, tree: Expression, path: Path, task: Task, *, in_loop: bool) -> Iterator[Remark]:
        for reference in references_of(tree):
            complaint = self.reference(reference, task, in_loop=in_loop)
            if complaint is not None:
                code, message, remedy = complaint
                yield Remark(code, message, remedy, path)

    def reference(self, reference: Reference, task: Task, *, in_loop: bool) -> Complaint | None:
        root = reference.root
        if root in ("item", "index"):
            if in_loop:
                return None
            remedy = "Move it into the `with` of a `pkg:control/map@1.0.0` step."
            return "expression-unknown", f"`{root}` exists only inside a loop", remedy
        checker = self.checkers.get(root)
        if checker is not None:
            return checker(reference, task)
        if root in ("secrets", "env"):
            remedy = "Declare the secret under `secrets:` of the step; its kind reads it by name."
            return "expression-unknown", f"`{reference}` does not exist: flows never hold secrets", remedy
        if root in self.numbers:
            remedy = f"Write `steps.{root}.output`."
        else:
            remedy = did_you_mean(root, ROOTS, otherwise=f"Expressions know {', '.join(ROOTS)}.")
        return "expression-unknown", f"`{reference}` does not exist", remedy

    def param(self, reference: Reference, _task: Task) -> Complaint | None:
        params = self.flow.params
        if len(reference.path) == 1 or reference.path[1] in params:
            return None
        name = str(reference.path[1])
        known = f"Declared are {', '.join(list(params)[:12])}." if params else "The flow declares no params."
        remedy = did_you_mean(name, params, otherwise=f"Declare `{name}` under `params:`. {known}")
        return "expression-unknown", f"the parameter `{name}` is not declared", remedy

    def step(self, reference: Reference, task: Task) -> Complaint | None:
        step = reference.step
        if step is None:
            return "expression-unknown", "`steps` names no step", "Write `steps.<id>.output`."
        if step not in self.numbers:
            remedy = did_you_mean(step, self.numbers, otherwise="Name a step of this flow.")
            return "expression-unknown", f"`{reference}` names `{step}`, which is no step", remedy
        if not self.is_before(step, task):
            return (
                "expression-not-upstream",
                f"`{reference}` reads `{step}`, which `{task.id}` does not wait for",
                f"Add `{step}` to the needs of `{task.id}`.",
            )
        if len(reference.path) <= _LONGEST_STEP_PATH or reference.path[2] not in STEP_FIELDS:
            fields = ", ".join(STEP_FIELDS)
            return "expression-unknown", f"`{reference}` does not exist", f"A step has {fields}."
        return None

    def is_before(self, step: str, task: Task) -> bool:
        if step in task.needs:
            return True
        if self.masks is None:  # made once, and only for flows that reach over a step
            self.masks = ancestor_masks(self.flow)
        return bool(self.masks[task.id] >> self.numbers[step] & 1)

    def git(self, reference: Reference, _task: Task) -> Complaint | None:
        return self._one_of(reference, GIT_FIELDS)

    def run(self, reference: Reference, _task: Task) -> Complaint | None:
        return self._one_of(reference, ("id",))

    def _one_of(self, reference: Reference, fields: tuple[str, ...]) -> Complaint | None:
        if len(reference.path) == 2 and reference.path[1] in fields:  # noqa: PLR2004 - root and field
            return None
        root = reference.root
        name = str(reference.path[1]) if len(reference.path) > 1 else ""
        remedy = did_you_mean(name, fields, otherwise=f"`{root}` has {', '.join(fields)}.")
        return "expression-unknown", f"`{reference}` does not exist", remedy
