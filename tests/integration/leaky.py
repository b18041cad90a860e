"""`maestro`, with a step kind that says secrets. Run as `python leaky.py ARGUMENTS...`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from maestro_dagster.cli.main import main
from maestro_dagster.steps import catalogue

catalogue.BUILT_IN["pkg:test/leak@1.0.0"] = "leaky_kind:Leak"

if __name__ == "__main__":
    main(sys.argv[1:])
