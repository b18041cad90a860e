"""What goes wrong around a command: keys, full disks, closed outputs, bytes that are no text."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.cli.main import run_command
from maestro_dagster.project.check import check_project
from maestro_dagster.project.root import open_project
from maestro_dagster.project.scaffold import init_project


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return init_project(tmp_path_factory.mktemp("faults") / "shop").root


@pytest.fixture
def shop(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(pristine, tmp_path / "shop"))
    monkeypatch.chdir(folder)
    return folder


def spawn(script: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell line in which `maestro` is this one."""
    line = f'maestro() {{ "{sys.executable}" -m maestro_dagster "$@"; }}\n{script}'
    return subprocess.run(
        ["bash", "-c", line],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = run_command([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda key: key.unlink(), "key-missing"),
        (lambda key: key.chmod(0o644), "key-exposed"),
        (lambda key: key.write_text("garbage"), "key-unusable"),
    ],
)
def test_a_key_is_asked_for_before_the_run_is(
    shop: Path, capsys: pytest.CaptureFixture[str], spoil: Any, expected: str
) -> None:
    spoil(shop / ".maestro/keys/maestro.pem")
    code, said = call(capsys, "run", "hello")
    assert (code, said["error"]["code"]) == (2, expected)
    assert call(capsys, "status") == (0, {"runs": []})
    found = {finding.check: finding for finding in check_project(open_project(shop))}["key"]
    assert found.status == "error"
    assert ("chmod" if expected == "key-exposed" else "maestro init .") in found.remedy


def test_init_says_that_it_made_only_the_key(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / ".maestro/keys/maestro.pem").unlink()
    code, said = call(capsys, "init", ".")
    assert (code, said["made"]) == (0, "key")
    assert call(capsys, "init", ".")[1]["error"]["code"] == "key-exists"


def test_the_next_command_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["init", "sp ace"]) == 0
    assert "cd 'sp ace' && maestro run hello" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, said = call(capsys, "init", "")
    assert (code, said["error"]["code"]) == (2, "usage")
    assert not list(Path().iterdir())


def test_outputs_that_are_closed_full_or_left(shop: Path) -> None:
    done = spawn("maestro schema >&-; echo $?", shop)
    assert "Traceback" not in done.stderr
    for command in ("--help", "schema", "status --json"):
        done = spawn(f"maestro {command} >/dev/full", shop)
        assert done.returncode == 1
        assert "error[output-failed]" in done.stderr
    assert spawn('maestro schema | true; echo "${PIPESTATUS[0]}"', shop).stdout == "0\n"


def test_a_run_that_nobody_reads_of_exits_as_it_ended(shop: Path) -> None:
    done = spawn('maestro run hello | true; echo "${PIPESTATUS[0]}"', shop)
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert json.loads(spawn("maestro status --json", shop).stdout)["runs"][0]["status"] == "succeeded"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_bytes_that_are_no_text_are_a_wrong_call(shop: Path, locale: str) -> None:
    done = spawn("maestro run hello -p name=$'\\xff\\xfe' --json", shop, LC_ALL=locale)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "usage"


@pytest.mark.parametrize("budget", ["abc", "-1", "nan", "1eur", ""])
def test_a_budget_that_is_none_is_a_wrong_call(
    shop: Path, capsys: pytest.CaptureFixture[str], budget: str
) -> None:
    code, said = call(capsys, "run", "hello", "--budget", budget)
    assert (code, said["error"]["code"]) == (2, "money-invalid")


@pytest.fixture
def mounts() -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces on this machine")


def in_mounts(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = f'maestro() {{ "{sys.executable}" -m maestro_dagster "$@"; }}\n{script}'
    return subprocess.run(
        ["unshare", "-rm", "bash", "-c", line],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.usefixtures("mounts")
def test_a_read_only_home_can_be_looked_at_and_is_not_called_damaged(shop: Path) -> None:
    assert run_command(["run", "hello", "--json"]) == 0
    script = "mount --bind . . && mount -o remount,ro,bind . && cd . && "
    home = str(shop)
    done = in_mounts(f"{script} cd {home} && maestro status --json", shop)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["runs"][0]["status"] == "succeeded"
    done = in_mounts(f"{script} cd {home} && maestro doctor --json", shop)
    (found,) = [each for each in json.loads(done.stdout)["checks"] if each["check"] == "journal"]
    assert "cannot be written" in found["fact"]
    assert "damaged" not in found["fact"]


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize("ran", [False, True])
def test_a_loop_on_a_read_only_home_says_what_to_do(shop: Path, ran: bool) -> None:
    home = shop / ".maestro"
    if ran:
        (home / "run").mkdir()
        (home / "run" / "loop.lock").touch()
    script = f"mount --bind . . && mount -o remount,ro,bind . && cd {shop} && maestro dev --no-ui --no-daemon"
    done = in_mounts(script, shop)
    assert done.returncode == 1
    place = home / "run" / "loop.lock" if ran else home / "run"
    assert done.stderr == (
        "error[home-unwritable]: the state folder cannot be written: Read-only file system\n"
        f"  place:  {place}\n"
        "  remedy: give this user the right to write there, mount it for writing, or set MAESTRO_HOME\n"
    )


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize("left", [0, 16, 64, 200])
def test_a_full_disk_is_called_so(shop: Path, left: int) -> None:
    """`left`: KiB that are still free when the run begins."""
    script = f"""
    mkdir small && mount -t tmpfs -o size=1m none small && cp -a .maestro/keys small/
    export MAESTRO_HOME=$PWD/small
    head -c 2M /dev/zero >small/fill 2>/dev/null
    truncate -s $(( $(stat -c %s small/fill) - {left} * 1024 )) small/fill
    maestro run hello --json"""
    done = in_mounts(script, shop)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "disk-full", done.stdout
