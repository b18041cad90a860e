"""The templates of CI: their scripts are run as a runner would run them, on a real project in Git."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.manifest.plain_yaml import load_plain_yaml
from maestro_dagster.project.scaffold import init_project

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / "deploy" / "ci" / "github-actions.yml"
GITLAB = ROOT / "deploy" / "ci" / "gitlab-ci.yml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(path: Path) -> Any:
    return load_plain_yaml(path.read_bytes())


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in Git, and the repository that it was cloned from."""
    folder = tmp_path / "shop"
    init_project(folder)
    (folder / "assets" / "python-release.yaml").unlink()
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "base")
    bare = tmp_path / "shop.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(folder), str(bare)], check=True)
    git(folder, "remote", "add", "origin", str(bare))
    return folder


def run(script: str, project: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAESTRO_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=project,
        env={**clean, **environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


INSTALL = "python -m pip --version"  # as much of an installation as a test needs


def run_github(project: Path) -> tuple[int, str, str]:
    """As an action's checkout leaves the folder: the change is checked out, the target is in the history."""
    summary, temporary = project.parent / "summary.md", project.parent / "temporary"
    summary.write_text("")
    temporary.mkdir()
    environment = {
        "PROJECT": ".",
        "BASE": git(project, "rev-parse", "main"),
        "INSTALL": INSTALL,
        "RUNNER_TEMP": str(temporary),
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    steps = load(GITHUB)["jobs"]["plan"]["steps"]
    scripts = [step["run"] for step in steps if "run" in step]
    assert len(scripts) == 3
    whole = ""
    for script in scripts:
        code, said = run(script, project, environment)
        whole += said
        if code:
            break
    return code, whole, summary.read_text()


def run_gitlab(project: Path) -> tuple[int, str, str]:
    job = load(GITLAB)["maestro plan"]
    environment = {
        **job["variables"],
        "CI_PROJECT_DIR": str(project),
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
        "MAESTRO_PLAN_INSTALL": INSTALL,
    }
    (script,) = job["script"]
    code, said = run(script, project, {key: str(value) for key, value in environment.items()})
    return code, said, (project / job["artifacts"]["paths"][0]).read_text()


RUNNERS = {"github": run_github, "gitlab": run_gitlab}


@pytest.mark.parametrize("forge", sorted(RUNNERS))
def test_a_pull_request_is_planned_under_the_policies_of_its_target(forge: str, project: Path) -> None:
    git(project, "checkout", "--quiet", "-b", "change")
    hello = (project / "assets" / "hello.yaml").read_text()
    banned = hello.replace("name: hello", "name: banned").replace("region: EU", "region: RU")
    (project / "assets" / "banned.yaml").write_text(banned)
    for pack in (project / "policies").rglob("*.rego"):
        pack.unlink()  # nothing could deny any more, were it for the pull request
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "allow everything")
    code, said, summary = RUNNERS[forge](project)
    assert code == 1, said
    assert "### assets/hello.yaml: allowed" in summary
    assert "    digest: sha256:" in summary
    assert "### assets/banned.yaml: denied" in summary


@pytest.mark.parametrize("forge", sorted(RUNNERS))
def test_nothing_that_a_pull_request_brings_decides_or_runs(
    forge: str, project: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    git(project, "checkout", "--quiet", "-b", "change")
    hello = (project / "assets" / "hello.yaml").read_text()
    banned = hello.replace("name: hello", "name: banned").replace("region: EU", "region: RU")
    (project / "assets" / "banned.yaml").write_text(banned)
    engine = project / "opa"
    engine.write_text(f"#!/bin/sh\ntouch {ran}\nexit 1\n")
    engine.chmod(0o755)
    settings = f'[tool.maestro]\npolicy_engine = "opa"\nopa_command = "{engine}"\n'
    (project / "pyproject.toml").write_text(settings)
    (project / "resources" / "rates.yaml").write_text("nothing costs anything")
    code = f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
    for module in ("pip", "json", "sitecustomize", "maestro_dagster", "assets/kind", "resources/signer"):
        (project / f"{module}.py").write_text(code)
    (project / "steps").mkdir()
    (project / "steps" / "kind.py").write_text(code)
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "allow everything, and run")
    status, said, summary = RUNNERS[forge](project)
    assert not ran.exists(), said
    assert status == 1, said
    assert "### assets/hello.yaml: allowed" in summary
    assert "### assets/banned.yaml: denied" in summary
    assert "changes settings, policies or resources too" in said


@pytest.mark.parametrize("forge", sorted(RUNNERS))
def test_flows_that_a_pull_request_removes_or_moves_are_gone(forge: str, project: Path) -> None:
    git(project, "checkout", "--quiet", "-b", "change")
    (project / "assets" / "a").mkdir()
    git(project, "mv", "assets/hello.yaml", "assets/a/[x].yaml")
    git(project, "commit", "--quiet", "--message", "move")
    status, said, summary = RUNNERS[forge](project)
    assert status == 0, said
    assert re.findall(r"^###.*$", summary, re.MULTILINE) == ["### assets/a/?x?.yaml: allowed"]


@pytest.mark.parametrize("forge", sorted(RUNNERS))
def test_a_link_leads_nowhere(forge: str, project: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("name: word-of-the-machine\n")
    git(project, "checkout", "--quiet", "-b", "change")
    (project / "assets" / "link.yaml").symlink_to(secret)
    (project / "maestro-plan.md").symlink_to(secret)
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "links")
    status, said, summary = RUNNERS[forge](project)
    assert status == 1, said
    assert "### assets/link.yaml: cannot be planned" in summary
    assert "word-of-the-machine" not in said + summary
    assert secret.read_text() == "name: word-of-the-machine\n"


@pytest.mark.parametrize("forge", sorted(RUNNERS))
def test_a_target_without_a_project_allows_nothing(forge: str, project: Path) -> None:
    git(project, "rm", "--quiet", "pyproject.toml")
    git(project, "commit", "--quiet", "--message", "no project yet")
    git(project, "push", "--quiet", "origin", "main")
    git(project, "checkout", "--quiet", "-b", "change")
    (project / "pyproject.toml").write_text("[tool.maestro]\n")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "a project")
    status, said, _ = RUNNERS[forge](project)
    assert status == 1
    assert "the target branch has no project" in said


@pytest.mark.parametrize("forge", sorted(RUNNERS))
def test_words_of_a_pull_request_stay_words(forge: str, project: Path) -> None:
    git(project, "checkout", "--quiet", "-b", "change")
    lines = (
        "```",
        "# big",
        "::error file=a::b",
        "##[error]c\\r# big",
        "::set-env name=a::b",
        "section_start:1:x\\r\\e[0Kgone",
    )
    hostile = 'name: "' + "\\n".join(lines) + '"\n'
    for name in ("a`b $(touch gone)", "x\n::error file=a::b\n", "y\r##[error]c"):
        (project / "assets" / f"{name}.yaml").write_text(hostile)
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "words")
    code, said, summary = RUNNERS[forge](project)
    assert code == 1, said
    assert "cannot be planned" in summary
    assert not (project / "gone").exists()
    heads = [line for line in re.split(r"[\r\n]", summary) if line.startswith("#")]
    assert all(
        re.fullmatch(r"### [A-Za-z0-9._/?-]+: (allowed|denied|cannot be planned)", each) for each in heads
    )
    assert len(heads) == 4
    assert not any(line.startswith("```") for line in summary.splitlines())
    assert not re.search(r"[\r\x1b]", said + summary)
    if forge == "github":
        assert obeyed(said) == []


COMMAND = re.compile(r"\s*::([^ :]+)(?: .*?)?::(.*)")
OLD_COMMAND = re.compile(r"##\[([^\] ;]+)[^\]]*\](.*)")


def obeyed(log: str) -> list[str]:
    """The lines that a runner of GitHub would take for commands, after its own rules."""
    token, found = "", []
    for line in re.split(r"\r\n|\r|\n", log):
        name = COMMAND.match(line) or OLD_COMMAND.search(line)
        if name is None:
            continue
        if token:
            token = "" if name[1] == token else token
        elif name[1] == "stop-commands":
            token = name[2]
        else:
            found.append(line)
    assert not token, "it listens again at the end"
    return found


def test_our_own_workflow_uses_the_template() -> None:
    template = GITHUB.read_text(encoding="utf-8")
    own = (ROOT / ".github" / "workflows" / "plan.yml").read_text(encoding="utf-8")
    assert own == template.replace("  pull_request:\n", "", 1)  # called by ci.yml, not started twice
    assert (
        load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["plan"]["uses"]
        == "./.github/workflows/plan.yml"
    )


@pytest.mark.parametrize("path", [GITHUB, *WORKFLOWS], ids=lambda path: path.name)
def test_workflows_are_pinned_and_may_do_little(path: Path) -> None:
    text, found = path.read_text(encoding="utf-8"), load(path)
    assert found["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in text
    assert "secrets." not in text
    for job in found["jobs"].values():
        for step in job.get("steps", ()):
            if "uses" in step:
                assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", step["uses"])
            # Whatever a person can name reaches a script as a variable, never as a part of it.
            assert "${{" not in step.get("run", "")


def test_the_image_of_the_gitlab_job_is_named_by_digest() -> None:
    assert re.search(r"@sha256:[0-9a-f]{64}$", load(GITLAB)["maestro plan"]["image"])
