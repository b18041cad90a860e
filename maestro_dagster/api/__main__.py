"""`python -m maestro_dagster.api -h HOST -p PORT [-w WORKSPACE]`: the server of `maestro dev`.

Of the project around the working directory, or that MAESTRO_PROJECT names. Without a workspace there is no
Dagster UI.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from maestro_dagster.api.process import listen, serve
from maestro_dagster.errors import MaestroError


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m maestro_dagster.api", add_help=False)
    parser.add_argument("-h", dest="host", default="127.0.0.1")
    parser.add_argument("-p", dest="port", type=int, default=3000)
    parser.add_argument("-w", dest="workspace", type=Path)
    found = parser.parse_args(arguments)
    try:
        listener = listen(found.host, found.port)  # first: from here on nobody is turned away
    except OSError as error:
        return _fail(f"{found.host}:{found.port}: {error.strerror or error}")

    from maestro_dagster.project.backend import open_backend
    from maestro_dagster.project.root import find_project

    try:
        project = find_project()
        backend = open_backend(project)
    except MaestroError as error:
        return _fail(str(error))
    serve(backend, listener, project.home, found.workspace)
    return 0


def _fail(reason: str) -> int:
    sys.stderr.write(f"the server cannot start: {reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
