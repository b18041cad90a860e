"""Runs in the cage, by itself: calls one function with JSON arguments and writes what it returns.

    python tool_inside.py CALL_JSON RESULT_FOLDER

Standard library only. `CALL_JSON` is `{"entry", "args", "inputs"}`; a function with a parameter `inputs`
gets the paths of the step's inputs by name. Bytes become `result.bin`, any other value `result.json`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

GROUP = "maestro.tools"


def find(entry: str) -> Callable[..., Any]:
    """`module:function`, or the name of an entry point of the group `maestro.tools`."""
    if ":" not in entry:
        (point,) = metadata.entry_points(group=GROUP, name=entry)
        found: Callable[..., Any] = point.load()
        return found
    module, _, path = entry.partition(":")
    found = importlib.import_module(module)  # type: ignore[assignment]
    for part in path.split("."):
        found = getattr(found, part)
    return found


def main() -> None:
    call = json.loads(Path(sys.argv[1]).read_bytes())
    folder = Path(sys.argv[2])
    function = find(call["entry"])
    arguments = call["args"]
    if "inputs" in inspect.signature(function).parameters:
        arguments = {**arguments, "inputs": {name: Path(path) for name, path in call["inputs"].items()}}
    result = function(**arguments)
    if isinstance(result, (bytes, bytearray, memoryview)):
        (folder / "result.bin").write_bytes(result)
    else:
        text = json.dumps(result, allow_nan=False, sort_keys=True, ensure_ascii=False)
        (folder / "result.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
