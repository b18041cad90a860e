"""`tool/python`: one Python function of the project, or of an input, in the cage."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.steps import tool_inside
from maestro_dagster.steps.foreign_code import (
    ForeignCall,
    export_inputs,
    make_folder,
    open_for_reading,
    read_made_file,
    require_success,
    run_foreign,
)
from maestro_dagster.steps.interface import Effects, Estimate, StepConfig, StepContext, StepKind, StepResult
from maestro_dagster.steps.wheel_folder import open_wheel_folder
from maestro_dagster.steps.wheel_lock import parse_lock

FOLDER = "tools"
RESULT_BYTES = 256 * 1024**2


class ToolPythonConfig(StepConfig):
    entry: str = Field(
        pattern=r"[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?",
        max_length=200,
        title="Entry",
        description="module:function, or an entry point of the group maestro.tools",
        examples=["prices:convert"],
    )
    source: str | None = Field(
        default=None,
        title="Source",
        description="need whose tree holds the module; default: the folder tools/",
    )
    args: dict[str, Any] = Field(
        default_factory=dict, title="Arguments", description="JSON, passed to the function by keyword"
    )
    requirements: str | None = Field(
        default=None,
        title="Lock",
        description="path in the source of a lock with hashes: what the tool imports",
    )
    media_type: str = Field(
        default="application/octet-stream",
        title="Media type",
        description="of bytes that the function returns",
    )
    time_limit: float = Field(default=600, gt=0, le=86400, title="Time limit", description="seconds")
    memory_mb: int = Field(default=4096, ge=64, le=262144, title="Memory limit", description="MiB")


class ToolPython(StepKind[ToolPythonConfig]):
    uses: ClassVar[str] = "pkg:tool/python@1.0.0"
    summary: ClassVar[str] = "Call a Python function in the cage; its result is the output."
    config = ToolPythonConfig
    media_type: ClassVar[str] = "application/json"

    def effects(self, config: ToolPythonConfig) -> Effects:
        return Effects(runs_foreign_code=True)

    def estimate(self, config: ToolPythonConfig) -> Estimate:
        return Estimate(cpu_seconds=min(config.time_limit, 30.0), bytes_out=64 * 1024)

    async def run(
        self, context: StepContext, config: ToolPythonConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        read_only = await export_inputs(context, inputs)
        source, digest = await _open_source(context, config, inputs)
        read_only["/tools/source"] = source
        search = ["/tools/source"]
        if config.requirements is not None:
            text = read_made_file(source, config.requirements, context, 8 * 1024**2).decode(
                "utf-8", "replace"
            )
            pins = tuple(pin for pin in parse_lock(text, config.requirements) if pin.applies())
            read_only["/tools/site"] = await open_wheel_folder(context, pins)
            search.append("/tools/site")
        names = {path.removeprefix("/inputs/"): path for path in read_only if path.startswith("/inputs/")}
        call = {"entry": config.entry, "args": config.args, "inputs": names}
        read_only |= {
            "/tools/call.json": _write_call(context, call),
            "/tools/run.py": Path(tool_inside.__file__),
        }
        folder, work = make_folder(context, "result"), make_folder(context, "work")
        result = await run_foreign(
            context,
            ForeignCall(
                argv=("python3", "-B", "/tools/run.py", "/tools/call.json", "/result"),
                env={"PYTHONPATH": ":".join(search), "PYTHONNOUSERSITE": "1"},
                read_only=read_only,
                writable={"/scratch": work, "/result": folder},
                egress=context.network.egress,
                time_limit=config.time_limit,
                memory_mb=config.memory_mb,
            ),
        )
        require_success(result, context, what=config.entry, code="tool-failed")
        data, media_type = await asyncio.to_thread(_read_result, context, folder, config.media_type)
        is_text = media_type.startswith(("application/json", "text/"))
        return StepResult(
            data=data,
            media_type=media_type,
            facts={"entry": config.entry, "source": digest},
            preview="```\n" + data[:2000].decode("utf-8", "replace") + "\n```" if is_text else "",
            isolation=result.isolation,
        )


async def _open_source(
    context: StepContext, config: ToolPythonConfig, inputs: Mapping[str, Artifact]
) -> tuple[Path, str]:
    """(folder with the code, its digest): an input's tree, or a copy of the project's `tools/`."""
    place = f"step {context.step}"
    if config.source is not None:
        if config.source not in inputs:
            raise StepError(
                f"there is no input {config.source!r}",
                place=place,
                remedy="check `needs`",
                code="input-missing",
            )
        path = context.scratch / "source"
        await asyncio.to_thread(context.store.export, inputs[config.source], path)
        if not path.is_dir():
            raise StepError(
                "the source is no folder",
                place=place,
                remedy="need a step that makes one",
                code="input-not-tree",
            )
        return path, inputs[config.source].digest
    folder = context.project.root / FOLDER
    if not folder.is_dir() or folder.is_symlink():
        raise StepError(
            "the project has no folder tools",
            place=place,
            remedy="put the module there, or name the need that holds it as `source`",
            code="tool-missing",
        )
    return await asyncio.to_thread(_copy_tools, context, folder)


def _copy_tools(context: StepContext, folder: Path) -> tuple[Path, str]:
    """Links are copied as links: one that leads out of the folder leads nowhere inside the cage."""
    path = context.scratch / "source"
    shutil.copytree(folder, path, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    open_for_reading(path)
    return path, context.store.put_tree(path).digest


def _write_call(context: StepContext, call: Mapping[str, Any]) -> Path:
    path = context.scratch / "call.json"
    path.write_text(json.dumps(call), encoding="utf-8")
    path.chmod(0o644)
    return path


def _read_result(context: StepContext, folder: Path, media_type: str) -> tuple[bytes, str]:
    try:
        return read_made_file(folder, "result.json", context, RESULT_BYTES), "application/json"
    except StepError as error:
        if error.error_code != "file-missing":
            raise
    return read_made_file(folder, "result.bin", context, RESULT_BYTES), media_type
