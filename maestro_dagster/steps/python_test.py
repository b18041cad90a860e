"""`python/test`: pytest on a checked-out tree, in the cage, with test tools from a hash lock."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.sandbox.interface import CagedResult
from maestro_dagster.steps.foreign_code import (
    ForeignCall,
    export_tree,
    log_output,
    make_folder,
    read_made_file,
    run_foreign,
    tail,
)
from maestro_dagster.steps.input import read_only_input
from maestro_dagster.steps.interface import Effects, Estimate, StepConfig, StepContext, StepKind, StepResult
from maestro_dagster.steps.junit import MOST_BYTES, TestReport, read_junit
from maestro_dagster.steps.wheel_folder import open_wheel_folder
from maestro_dagster.steps.wheel_lock import Pin, parse_lock, read_shipped_lock, select_pins

LOCK = "test-tools.lock"
_NO_TESTS = 5  # pytest's exit code


class PythonTestConfig(StepConfig):
    source: str | None = Field(
        default=None, title="Source", description="the need that gives the tree; default: the only one"
    )
    requirements: str | None = Field(
        default=None,
        title="Lock of test dependencies",
        description="path in the tree of a lock with hashes; default: pytest alone, from the shipped lock",
    )
    paths: tuple[str, ...] = Field(
        default=(), title="Paths", description="what to test; default: as the tree configures pytest"
    )
    import_paths: tuple[str, ...] = Field(
        default=("src", "."), title="Import paths", description="folders of the tree put on PYTHONPATH"
    )
    time_limit: float = Field(default=600, gt=0, le=86400, title="Time limit", description="seconds")
    memory_mb: int = Field(default=4096, ge=64, le=262144, title="Memory limit", description="MiB")


class PythonTest(StepKind[PythonTestConfig]):
    uses: ClassVar[str] = "pkg:python/test@1.0.0"
    summary: ClassVar[str] = "Run a tree's tests with pytest, in the cage; the report is JUnit XML."
    config = PythonTestConfig
    inputs: ClassVar[str] = "any"
    media_type: ClassVar[str] = "application/xml"

    def effects(self, config: PythonTestConfig) -> Effects:
        return Effects(runs_foreign_code=True)

    def estimate(self, config: PythonTestConfig) -> Estimate:
        return Estimate(cpu_seconds=min(config.time_limit, 60.0), bytes_out=256 * 1024)

    async def run(
        self, context: StepContext, config: PythonTestConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        _, artifact = read_only_input(inputs, context.step, config.source)
        tree = await export_tree(context, artifact, "tree")
        pins = choose_tools(context, tree, config)
        tools = await open_wheel_folder(context, pins)
        report, work = make_folder(context, "report"), make_folder(context, "work")
        result = await run_foreign(context, _call(config, tree, tools, work, report))
        log_output(context, result)
        data = await asyncio.to_thread(_read_report, report, context, result)
        found = read_junit(data, f"step {context.step}")
        require_passed(found, result, context)
        facts = {
            "tests": found.tests,
            "failures": found.failures,
            "errors": found.errors,
            "skipped": found.skipped,
            "seconds": found.seconds,
            "tools": {pin.name: pin.version for pin in pins},
        }
        preview = f"**{found.tests} tests passed** ({found.skipped} skipped) in {found.seconds} s"
        return StepResult(
            data=data, media_type=self.media_type, facts=facts, preview=preview, isolation=result.isolation
        )


def choose_tools(context: StepContext, tree: Path, config: PythonTestConfig) -> tuple[Pin, ...]:
    """The tree's own lock, and pytest from ours where it has none."""
    shipped = read_shipped_lock(context.project.root, LOCK)
    if config.requirements is None:
        return select_pins(shipped, ["pytest"])
    data = read_made_file(tree, config.requirements, context, 8 * 1024**2)
    own = parse_lock(data.decode("utf-8", "replace"), config.requirements)
    own = tuple(pin for pin in own if pin.applies())
    names = {pin.name for pin in own}
    return own + tuple(pin for pin in select_pins(shipped, ["pytest"]) if pin.name not in names)


def _call(config: PythonTestConfig, tree: Path, tools: Path, work: Path, report: Path) -> ForeignCall:
    """The tree is writable, as tests expect, but a copy: what they do to it is thrown away."""
    own = [f"/scratch/tree/{path}".removesuffix("/.") for path in config.import_paths]
    argv = ("python3", "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=/report/junit.xml")
    return ForeignCall(
        argv=(*argv, "--", *config.paths) if config.paths else argv,
        cwd="/scratch/tree",
        env={"PYTHONPATH": ":".join([*own, "/tools"]), "PYTHONNOUSERSITE": "1"},
        read_only={"/tools": tools},
        writable={"/scratch": work, "/scratch/tree": tree, "/report": report},
        time_limit=config.time_limit,
        memory_mb=config.memory_mb,
    )


def _read_report(report: Path, context: StepContext, result: CagedResult) -> bytes:
    try:
        return read_made_file(report, "junit.xml", context, MOST_BYTES)
    except StepError as error:
        said = tail(result.stdout) or tail(result.stderr)
        raise StepError(
            f"the tests wrote no report (exit code {result.returncode}): {said[-1500:]}",
            place=f"step {context.step}",
            remedy="read the step's log",
            code="tests-no-report",
        ) from error


def require_passed(report: TestReport, result: CagedResult, context: StepContext) -> None:
    """The report and the exit code must both say so; a tree cannot pass by writing only one of them."""
    place = f"step {context.step}"
    if report.first_problem is not None:
        name, message = report.first_problem
        raise StepError(
            f"{report.failures + report.errors} of {report.tests} tests failed, first {name}: {message}",
            place=place,
            remedy="mend the code or the test, and push again",
            code="tests-failed",
        )
    if report.tests == 0 or result.returncode == _NO_TESTS:
        raise StepError(
            "there are no tests",
            place=place,
            remedy="add tests that pytest finds, or name their `paths`",
            code="tests-none",
        )
    if report.tests == report.skipped:
        raise StepError(
            f"all {report.tests} tests were skipped",
            place=place,
            remedy="run at least one",
            code="tests-none",
        )
    if result.returncode != 0:
        raise StepError(
            f"pytest ended with {result.returncode}: {tail(result.stdout)[-1500:]}",
            place=place,
            remedy="read the step's log",
            code="tests-failed",
        )
