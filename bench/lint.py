"""CPU to lint a flow of 10,000 steps, against only composing its YAML."""

from __future__ import annotations

import time
from pathlib import Path

STEPS = 10_000


def _write(folder: Path) -> Path:
    path = folder / "large.yaml"
    lines = ["name: large", "version: 1.0.0", "tasks:"]
    for number in range(STEPS):
        lines += [
            f"  - id: s{number}",
            "    uses: pkg:text/template@1.0.0",
            f"    needs: [{f's{number - 1}' if number else ''}]",
            "    with: {template: hello}",
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def maestro(folder: Path) -> dict[str, float]:
    from click.testing import CliRunner

    from maestro_dagster.cli.main import command

    path = _write(folder)
    before = time.process_time()
    result = CliRunner().invoke(command, ["flow", "lint", str(path), "--json"])
    used = time.process_time() - before
    assert result.exit_code == 0, result.output
    return {"value": used}


def yaml_compose(folder: Path) -> dict[str, float]:
    from ruamel.yaml import YAML

    path = _write(folder)
    before = time.process_time()
    YAML(typ="safe", pure=True).compose(path.read_text(encoding="utf-8"))
    return {"value": time.process_time() - before}
