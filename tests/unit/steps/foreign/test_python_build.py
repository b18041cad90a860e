from __future__ import annotations

import asyncio
import io
import json
import tarfile
import zipfile
from typing import Any

import pytest

from maestro_dagster.errors import StepError
from maestro_dagster.steps.git_checkout import CARD
from maestro_dagster.steps.python_build import PythonBuild

COMMIT = "a" * 40
EPOCH = 1704164645
CODE = {"src/shop/__init__.py": '"""A shop."""\n__version__ = "1.2.3"\n', "README.md": "shop\n"}
PROJECT = (
    '\n[project]\nname = "shop"\nversion = "1.2.3"\ndescription = "A shop."\nrequires-python = ">=3.9"\n'
)


def card() -> str:
    return json.dumps(
        {"commit": COMMIT, "repository": "/r", "ref": "refs/heads/main", "source_date_epoch": EPOCH}
    )


def project(requires: str, backend: str, more: str = "") -> dict[str, str]:
    table = f'[build-system]\nrequires = ["{requires}"]\nbuild-backend = "{backend}"\n'
    return {**CODE, "pyproject.toml": table + PROJECT + more, CARD: card()}


BACKENDS = [
    ("setuptools>=61", "setuptools.build_meta", ""),
    ("flit_core >=3,<5", "flit_core.buildapi", ""),
    ("hatchling", "hatchling.build", ""),
    pytest.param("poetry-core", "poetry.core.masonry.api", "", marks=pytest.mark.soak),
    pytest.param("pdm-backend", "pdm.backend", "", marks=pytest.mark.soak),
]


@pytest.mark.parametrize(("requires", "backend", "more"), BACKENDS)
async def test_the_same_commit_builds_the_same_bytes(
    bench: Any, requires: Any, backend: Any, more: Any
) -> None:
    tree = bench.tree(project(requires, backend, more))
    first = await bench.run(PythonBuild, {}, {"checkout": tree})
    await asyncio.sleep(1.1)  # archives keep times in whole seconds
    again = await bench.run(PythonBuild, {}, {"checkout": tree})
    assert first.artifact == again.artifact
    files = bench.files(first.artifact)
    assert sorted(files) == ["shop-1.2.3-py3-none-any.whl", "shop-1.2.3.tar.gz"]
    assert (first.facts["name"], first.facts["version"]) == ("shop", "1.2.3")
    with zipfile.ZipFile(io.BytesIO(files["shop-1.2.3-py3-none-any.whl"])) as wheel:
        assert "shop/__init__.py" in wheel.namelist()
        assert {entry.date_time[:3] for entry in wheel.infolist()} == {(2024, 1, 2)}
    with tarfile.open(fileobj=io.BytesIO(files["shop-1.2.3.tar.gz"])) as sdist:
        members = sdist.getmembers()
        assert {(member.uid, member.mtime) for member in members} == {(0, EPOCH)}
        assert not any(CARD in member.name for member in members)
    dependencies = dict(first.built[0].dependencies)
    assert dependencies["git+/r@refs/heads/main"] == f"gitCommit:{COMMIT}"
    assert dependencies["urn:maestro:tree"] == tree.digest
    assert any(uri.startswith("pkg:pypi/") for uri in dependencies)
    assert [built.digest for built in first.built] == [first.facts["files"][name] for name in sorted(files)]


async def test_a_tree_with_nothing_but_setup_py(bench: Any) -> None:
    setup = 'from setuptools import setup\nsetup(name="old", version="0.1", py_modules=["old"])\n'
    result = await bench.run(PythonBuild, {}, {"x": bench.tree({"setup.py": setup, "old.py": ""})})
    assert result.facts["name"] == "old"
    assert result.facts["source_date_epoch"] == 315532800


@pytest.mark.parametrize(
    ("files", "code"),
    [
        (project("setuptools-scm", "setuptools.build_meta"), "backend-not-pinned"),
        (project("setuptools<10", "setuptools.build_meta"), "backend-not-pinned"),
        (project("x @ https://evil.example/x.whl", "x"), "backend-not-pinned"),
        (project("not a requirement!", "x"), "build-project-invalid"),
        (project("flit_core", "flit_core.missing"), "build-failed"),
        (project("flit_core", "flit_core.buildapi") | {"src/shop/__init__.py": "syntax error("}, None),
        ({"a.txt": ""}, "build-no-project"),
        ({"pyproject.toml": "[build-system"}, "build-project-invalid"),
        ({"pyproject.toml": "build-system = 3"}, "build-project-invalid"),
        ({"pyproject.toml": "[build-system]\nrequires = [1]"}, "build-project-invalid"),
    ],
)
async def test_what_cannot_be_built_says_why(bench: Any, files: Any, code: str) -> None:
    if code is None:
        await bench.run(PythonBuild, {}, {"x": bench.tree(files)})
        return
    with pytest.raises(StepError) as raised:
        await bench.run(PythonBuild, {}, {"x": bench.tree(files)})
    assert raised.value.error_code == code


async def test_a_backend_of_its_own_runs_in_the_cage(bench: Any) -> None:
    """In-tree back ends are foreign code like any other: this one looks around and builds nothing."""
    backend = (
        "import os\n"
        "def build_sdist(out, settings=None):\n"
        f"    assert not os.path.exists({str(bench.root)!r})\n"
        "    assert os.environ.get('SOURCE_DATE_EPOCH')\n"
        "    open(out + '/evil-1.0.tar.gz', 'w').close()\n"
        "    os.symlink('/etc/passwd', out + '/evil-1.0-py3-none-any.whl')\n"
        "    os._exit(0)\n"
    )
    table = '[build-system]\nrequires = []\nbuild-backend = "own"\nbackend-path = ["."]\n'
    with pytest.raises(Exception, match=r"link|one wheel") as raised:
        await bench.run(PythonBuild, {}, {"x": bench.tree({"own.py": backend, "pyproject.toml": table})})
    assert raised.value.error_code in {"tree-link", "build-files"}


async def test_extra_wishes_of_a_backend_are_named(bench: Any) -> None:
    backend = "def get_requires_for_build_sdist(settings=None):\n    return ['no-such-thing>=1']\n"
    table = '[build-system]\nrequires = []\nbuild-backend = "own"\nbackend-path = ["."]\n'
    with pytest.raises(StepError, match="no-such-thing") as raised:
        await bench.run(PythonBuild, {}, {"x": bench.tree({"own.py": backend, "pyproject.toml": table})})
    assert raised.value.error_code == "backend-not-pinned"


async def test_without_isolation_it_builds_the_same(bench: Any) -> None:
    tree = bench.tree(project("flit_core", "flit_core.buildapi"))
    caged = await bench.run(PythonBuild, {}, {"x": tree})
    bench.isolation = "none"
    plain = await bench.run(PythonBuild, {}, {"x": tree})
    assert (plain.isolation, caged.isolation) == ("none", "namespaces")
    assert plain.artifact == caged.artifact
