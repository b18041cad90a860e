"""`maestro`, with one step kind more. Run as `python dev.py ARGUMENTS...`.

With WITNESS_FILE in the environment every kind leaves a line there each time it ran to its end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from witness_kind import leave_line

from maestro_dagster.cli.main import main
from maestro_dagster.steps import catalogue

catalogue.BUILT_IN["pkg:test/witness@1.0.0"] = "witness_kind:Witness"


def watch(kind: Any, file: str) -> Any:
    class Watched(type(kind)):  # type: ignore[misc]
        async def run(self, context: Any, config: Any, inputs: Mapping[str, Any]) -> Any:
            result = await super().run(context, config, inputs)
            leave_line(file, context.run_id, context.step)
            return result

    return Watched()


if file := os.environ.get("WITNESS_FILE"):
    load = catalogue.Catalogue._load
    catalogue.Catalogue._load = lambda self, uses: watch(load(self, uses), file)  # type: ignore[method-assign]

if __name__ == "__main__":
    main(sys.argv[1:])
