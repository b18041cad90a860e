"""Renders the chart as Helm does: `python render.py CHART < values.json > manifests.json`.

Run by a Python that has helm-python-sdk, which holds Helm's own Go library; that package is no dependency of
Maestro, so it lives in an environment of its own. Exit 1 with Helm's words where Helm refuses.
"""

from __future__ import annotations

import json
import sys

import helm_python  # type: ignore[import-not-found]


def main(folder: str) -> int:
    values = json.load(sys.stdin)
    try:
        chart = helm_python.Chart.load(folder)
        chart.validate_schema(values)
        files = chart.render(values, name="maestro", namespace="ci")
        report = helm_python.lint(folder, values, strict=True)
    except helm_python.HelmError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    json.dump({"files": files, "lint": report}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
