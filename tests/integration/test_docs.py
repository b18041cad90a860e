"""Documents that cannot lie: their commands are run, their links exist, the command line is as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_the_commands_of_the_readme_work(repository: Path, tmp_path: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    block = next(part for part in _blocks(text, "console") if "maestro init" in part)
    lines = [line for line in block.splitlines() if not line.startswith("source ")]
    assert len(lines) >= 6
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAESTRO_", "DAGSTER_"))
    }
    environment = {**clean, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_make_targets_of_the_documents_exist(repository: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (repository / "Makefile").read_text(encoding="utf-8")))
    for page in _pages(repository):
        for target in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")):
            assert target in targets, f"{page.name} names `make {target}`"


def test_the_flow_of_the_readme_lints_clean(repository: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from maestro_dagster.cli.main import command

    (flow,) = [
        part
        for part in _blocks((repository / "README.md").read_text(encoding="utf-8"), "yaml")
        if "tasks:" in part
    ]
    path = tmp_path / "flow.yaml"
    path.write_text(flow, encoding="utf-8")
    result = CliRunner().invoke(command, ["flow", "lint", str(path), "--json"])
    assert result.exit_code == 0, result.output


def test_links_lead_somewhere(repository: Path) -> None:
    for page in _pages(repository):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http://", "https://", "mailto:")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_command_line_page_is_what_help_prints(repository: Path) -> None:
    # In a process of its own: click remembers the options of a command that ran before.
    command = [sys.executable, str(repository / "docs" / "command_line.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_shows_an_example(repository: Path) -> None:
    written = (repository / "docs" / "command-line.md").read_text(encoding="utf-8")
    for name, text in re.findall(r"(?m)^#+ (maestro[^\n]*)\n\n```text\n(.*?)```", written, flags=re.DOTALL):
        if "COMMAND" not in text.split("\n")[0]:
            assert "Example" in text, f"`{name} --help` has no example"


def _pages(repository: Path) -> list[Path]:
    return [
        *repository.glob("*.md"),
        *(repository / "docs").rglob("*.md"),
        *(repository / "recipes").rglob("*.md"),
    ]


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
