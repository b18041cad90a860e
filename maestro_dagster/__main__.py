"""`python -m maestro_dagster` is `maestro`."""

from __future__ import annotations

from maestro_dagster.cli.main import main

if __name__ == "__main__":
    main()
