"""What all kinds that run foreign code share: inputs laid out for the cage, the call, what came of it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.sandbox.interface import CagedCommand, CagedResult
from maestro_dagster.steps.interface import StepContext
from maestro_dagster.steps.project_path import read_file

TAIL_BYTES = 4000
LOG_LINES = 2000  # of each stream that go into the step's log, half from its start and half from its end
LOG_BYTES = 256 * 1024
_LOG_LINE = 16 * 1024  # bytes; a longer line is cut, or one could fill the log alone
_LIMITS = {
    "time": ("took longer than its time limit", "time-limit", "raise time_limit, or make it faster"),
    "memory": ("used more memory than allowed", "memory-limit", "raise memory_mb"),
    "disk": ("wrote more than allowed", "disk-limit", "write less: the limit is for all files together"),
    "output": ("printed without end", "output-limit", "print less"),
}


@dataclass(frozen=True, slots=True)
class ForeignCall:
    """One command for the cage, without what the context adds. Sizes in MiB, times in seconds."""

    argv: tuple[str, ...]
    cwd: str = "/scratch"
    env: Mapping[str, str] = field(default_factory=dict)
    read_only: Mapping[str, Path] = field(default_factory=dict)
    writable: Mapping[str, Path] = field(default_factory=dict)
    egress: tuple[str, ...] = ()
    time_limit: float = 600.0
    memory_mb: int = 4096


async def run_foreign(context: StepContext, call: ForeignCall) -> CagedResult:
    """Runs it in the cage and accounts for what it used. Raises StepError when it broke a limit.

    The cage hands over what the command printed only when it has ended, so nothing of it is logged earlier.
    """
    result = await context.cage.run(
        CagedCommand(
            argv=call.argv,
            cwd=call.cwd,
            env=call.env,
            read_only=call.read_only,
            writable=call.writable,
            egress=call.egress,
            allow_private=context.network.allow_private,
            time_limit=call.time_limit,
            memory_limit=call.memory_mb * 1024**2,
            isolation=context.isolation,
        )
    )
    context.meter.add_cpu(result.cpu_seconds)
    context.meter.add_memory(result.max_rss_bytes * result.wall_seconds)
    context.meter.add_network(result.network_in, result.network_out)
    for host in result.refused_hosts:
        context.log(f"refused: {host} is not declared, or a private address")
    if result.killed:
        log_output(context, result)
        fact, code, remedy = _LIMITS[result.killed]
        raise StepError(f"{call.argv[0]} {fact}", place=f"step {context.step}", remedy=remedy, code=code)
    return result


def require_success(result: CagedResult, context: StepContext, *, what: str, code: str) -> None:
    """Raises StepError with the end of what the command said."""
    log_output(context, result)
    if result.returncode == 0:
        return
    said = tail(result.stderr) or tail(result.stdout) or "it said nothing"
    ending = f"signal {-result.returncode}" if result.returncode < 0 else f"exit code {result.returncode}"
    raise StepError(
        f"{what} failed with {ending}: {said}",
        place=f"step {context.step}",
        remedy="read the step's log, mend the code, and push again",
        code=code,
    )


def log_output(context: StepContext, result: CagedResult) -> None:
    """What the command printed, its output before its errors; of much of it start and end."""
    for data in (result.stdout, result.stderr):
        for line in bound_lines(data):
            context.log(line)
    if result.truncated:
        context.log("(the command printed more than is kept: what came last is missing here)")


def bound_lines(data: bytes) -> list[str]:
    """The lines, at most LOG_LINES of together LOG_BYTES; a line in the middle says how many are left out."""
    lines = [line if len(line) <= _LOG_LINE else line[:_LOG_LINE] + b" [cut]" for line in data.splitlines()]
    if len(lines) > LOG_LINES or sum(map(len, lines)) > LOG_BYTES:
        head = _count_fitting(lines)
        tail_count = _count_fitting(reversed(lines[head:]))
        left_out = len(lines) - head - tail_count
        note = f"({left_out} line{'' if left_out == 1 else 's'} left out)"
        lines[head : len(lines) - tail_count] = [note.encode()]
    return [line.decode("utf-8", "replace") for line in lines]


def _count_fitting(lines: Iterable[bytes]) -> int:
    """How many of the first lines fit into half of the log."""
    size = count = 0
    for line in lines:
        size += len(line)
        if count == LOG_LINES // 2 or size > LOG_BYTES // 2:
            break
        count += 1
    return count


def tail(data: bytes) -> str:
    return data[-TAIL_BYTES:].decode("utf-8", "replace").strip()


def make_folder(context: StepContext, name: str) -> Path:
    """A new folder in the step's scratch, to be bound into the cage as a place of its own.

    The command can fill it but never replace it by a link: inside it is a mount point.
    """
    folder = context.scratch / name
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    return folder


async def export_inputs(
    context: StepContext, inputs: Mapping[str, Artifact], folder: str = "inputs"
) -> dict[str, Path]:
    """Writes every input below the scratch; the result maps `/inputs/<name>` to where it lies."""
    top = make_folder(context, folder)
    found: dict[str, Path] = {}
    for name, artifact in inputs.items():
        path = top / re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")
        await asyncio.to_thread(context.store.export, artifact, path)
        await asyncio.to_thread(open_for_reading, path)
        found[f"/inputs/{path.name}"] = path
    return found


async def export_tree(context: StepContext, artifact: Artifact, name: str) -> Path:
    """A folder artifact below the scratch. Raises StepError (`input-not-tree`)."""
    require_tree(artifact, context)
    path = context.scratch / name
    await asyncio.to_thread(context.store.export, artifact, path)
    await asyncio.to_thread(open_for_reading, path)
    return path


def require_tree(artifact: Artifact, context: StepContext) -> None:
    if artifact.media_type != TREE_MEDIA_TYPE:
        raise StepError(
            f"the input is no folder but {artifact.media_type}",
            place=f"step {context.step}",
            remedy="need a step that makes a folder, such as git/checkout or python/build",
            code="input-not-tree",
        )


def read_made_file(folder: Path, path: str, context: StepContext, limit: int) -> bytes:
    """A file that foreign code made, opened without following any link that it may have left."""
    parts = tuple(part for part in path.split("/") if part not in {"", "."})
    if not parts or ".." in parts:
        raise StepError(f"{path!r} leaves the folder", place=f"step {context.step}", code="file-path")
    return read_file(folder, parts, place=f"step {context.step}", limit=limit)


def open_for_reading(path: Path) -> None:
    """Our own copies become readable for the caged user, whatever the operator's umask is."""
    if not path.is_dir():
        path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
        return
    for folder, _, files in os.walk(path):
        Path(folder).chmod(0o755)
        for name in files:
            file = Path(folder, name)
            if file.is_symlink():
                continue  # it could lead to a file that is not ours
            file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
