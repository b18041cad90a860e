"""What ships: the wheel, in an empty environment, in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("MAESTRO_WHEEL_TEST") != "1",
        reason="builds an environment for two minutes; run by `make wheel-test`",
    ),
]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheel")


@pytest.fixture(scope="module")
def wheel(room: Path, repository: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(room / "dist")]
    _call([*command, str(repository)])
    (built,) = (room / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(room: Path, repository: Path, wheel: Path) -> Path:
    """The `bin` folder of an empty environment with the locked runtime packages and the wheel."""
    _call([sys.executable, "-m", "venv", str(room / "venv")])
    pip = [str(room / "venv" / "bin" / "pip"), "install", "--quiet", "--no-deps"]
    _call([*pip, "--require-hashes", "-r", str(repository / "requirements.lock")])
    _call([*pip, str(wheel)])
    _call([str(room / "venv" / "bin" / "pip"), "check"])
    return room / "venv" / "bin"


def test_the_wheel_carries_the_project_folders_as_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for expected in (
        "maestro_dagster/_project/policies/pii/pii.rego",
        "maestro_dagster/_project/recipes/python-release/flow.yaml",
        "maestro_dagster/_project/recipes/daily-ai-brief/flow.yaml",
        "maestro_dagster/_project/resources/rates.yaml",
        "maestro_dagster/_project/sensors/git_push.py",
        "maestro_dagster/py.typed",
    ):
        assert expected in names
    tops = {name.split("/")[0] for name in names}
    assert all(top.startswith("maestro_dagster") for top in tops), "nothing else at the top of site-packages"


def test_init_run_and_dg_check_in_an_empty_folder(room: Path, scripts: Path) -> None:
    home = room / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": f"{scripts}:/usr/bin:/bin", "LANG": "C.UTF-8"}
    _call([str(scripts / "maestro"), "init", "shop"], cwd=room, env=environment)
    shop = room / "shop"
    starter = shop / "assets" / "hello.yaml"
    assert starter.is_file()
    ran = _call([str(scripts / "maestro"), "run", str(starter), "--json"], cwd=shop, env=environment)
    report = json.loads(ran)
    assert report["status"] == "succeeded"
    verified = _call(
        [str(scripts / "maestro"), "verify", report["evidence"], "--json"], cwd=shop, env=environment
    )
    assert json.loads(verified)["ok"] is True
    _call([str(scripts / "dg"), "check", "defs"], cwd=shop, env=environment)


def _call(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, (
        f"{command} -> {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done.stdout
