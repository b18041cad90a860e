"""Run one function of ours on untrusted data in a bounded child process.

For parsers and templates whose time or memory hostile data can drive up: a thread cannot be stopped,
a process can. The child inherits no environment and no open files, and the kernel bounds its CPU time,
memory and file sizes. It is no cage: the code is ours, only the data is not.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

from maestro_dagster.errors import StepError

CPU_SECONDS = 10
MEMORY_BYTES = 1024**3
OUTPUT_BYTES = 64 * 1024**2


async def call_in_child(
    target: str,
    options: Mapping[str, Any],
    data: bytes = b"",
    *,
    wall_seconds: float = 20.0,
    output_limit: int = OUTPUT_BYTES,
) -> bytes:
    """Calls `target` ("module:function", `function(options, data) -> bytes`) and gives what it returns.

    Raises StepError: what the function raised as StepError, `step-too-slow`, `step-too-large`, or
    `step-child` when the child died.
    """
    head = json.dumps({"target": target, "options": options, "output_limit": output_limit}).encode()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-m",
        __name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"LC_ALL": "C.UTF-8"},
        cwd="/",
    )
    try:
        reply, _ = await asyncio.wait_for(
            process.communicate(len(head).to_bytes(8, "big") + head + data), wall_seconds
        )
    except TimeoutError:
        raise _bounded("takes too long", target, "step-too-slow") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0 and reply[:1] == b"0":
        return reply[1:]
    if process.returncode == 0 and reply[:1] == b"1":
        raise StepError(**json.loads(reply[1:]))
    if process.returncode in (-9, -24):  # SIGKILL or SIGXCPU: the kernel's limit on CPU time
        raise _bounded("takes too long", target, "step-too-slow")
    raise StepError(
        f"the child process ended with {process.returncode}",
        place=target,
        remedy="try again",
        code="step-child",
    )


def _bounded(what: str, target: str, code: str) -> StepError:
    return StepError(
        f"working on this input {what}",
        place=target.rpartition(".")[2],
        remedy="make the input smaller or the expression simpler",
        code=code,
    )


def main() -> None:
    """The child's side: limits first, then the import, then the work."""
    import importlib
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = int.from_bytes(sys.stdin.buffer.read(8), "big")
    head = json.loads(sys.stdin.buffer.read(size))
    module, _, name = head["target"].partition(":")
    try:
        made = getattr(importlib.import_module(module), name)(head["options"], sys.stdin.buffer.read())
        if len(made) > head["output_limit"]:
            raise _bounded(f"makes more than {head['output_limit']} bytes", head["target"], "step-too-large")
        reply = b"0" + made
    except StepError as error:
        reply = b"1" + json.dumps(error.to_json()).encode()
    except (MemoryError, RecursionError) as error:
        fault = _bounded(f"needs too much memory ({type(error).__name__})", head["target"], "step-too-large")
        reply = b"1" + json.dumps(fault.to_json()).encode()
    sys.stdout.buffer.write(reply)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
