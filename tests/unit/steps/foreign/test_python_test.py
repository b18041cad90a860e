from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from maestro_dagster.errors import StepError
from maestro_dagster.steps.junit import read_junit
from maestro_dagster.steps.python_test import PythonTest

GOOD = {
    "src/shop/__init__.py": "def add(a, b):\n    return a + b\n",
    "tests/test_shop.py": "from shop import add\n\ndef test_add():\n    assert add(1, 2) == 3\n",
}


async def test_a_tree_that_passes(bench: Any) -> None:
    result = await bench.run(PythonTest, {}, {"checkout": bench.tree(GOOD)})
    assert (result.facts["tests"], result.facts["failures"]) == (1, 0)
    assert b"<testcase" in bench.store.read(result.artifact.digest)
    assert result.isolation == "namespaces"
    assert bench.meter.cpu > 0


@pytest.mark.parametrize(
    ("test", "code", "says"),
    [
        ("def test_a():\n    assert 1 == 2\n", "tests-failed", "tests.test_x::test_a"),
        ("import nothing_like_it\n", "tests-failed", "nothing_like_it"),
        ("def helper(): pass\n", "tests-none", "no tests"),
        ("import pytest\n@pytest.mark.skip\ndef test_a(): pass\n", "tests-none", "skipped"),
        ("import os\ndef test_a(): os._exit(0)\n", "tests-no-report", "no report"),
        ("import os, signal\ndef test_a(): os.kill(os.getpid(), signal.SIGKILL)\n", "tests-no-report", "-9"),
        ("def test_a(): pass\ndef test_b(undefined_thing): pass\n", "tests-failed", "test_b"),
    ],
)
async def test_a_tree_that_does_not(bench: Any, test: Any, code: str, says: Any) -> None:
    tree = bench.tree({"tests/test_x.py": test})
    with pytest.raises(StepError) as raised:
        await bench.run(PythonTest, {}, {"checkout": tree})
    assert raised.value.error_code == code
    assert says in raised.value.fact


async def test_a_forged_report_does_not_pass(bench: Any) -> None:
    """A test that fails, and a process that leaves a fine report when the run ends."""
    forge = (
        "import atexit\n"
        "def lie(): open('/report/junit.xml','w').write('<testsuite><testcase name=\"x\"/></testsuite>')\n"
        "atexit.register(lie)\n"
        "def test_a(): assert False\n"
    )
    with pytest.raises(StepError) as raised:
        await bench.run(PythonTest, {}, {"checkout": bench.tree({"test_x.py": forge})})
    assert raised.value.error_code == "tests-failed"


async def test_a_report_that_is_a_link_is_not_followed(bench: Any) -> None:
    secret = bench.root / ".maestro" / "key"
    secret.write_text("SECRET")
    code = (
        "import atexit, os\n"
        f"def link(): os.unlink('/report/junit.xml'); os.symlink({str(secret)!r}, '/report/junit.xml')\n"
        "atexit.register(link)\n"
        "def test_a(): pass\n"
    )
    with pytest.raises(StepError) as raised:
        await bench.run(PythonTest, {}, {"checkout": bench.tree({"test_x.py": code})})
    assert raised.value.error_code == "tests-no-report"
    assert "SECRET" not in str(raised.value)


async def test_tests_see_only_pinned_packages_and_no_secrets(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "x")
    test = (
        "import importlib.util, os, sys\n"
        "def test_a():\n"
        "    for name in ('pydantic', 'dagster', 'maestro_dagster', 'numpy'):\n"
        "        assert importlib.util.find_spec(name) is None, name\n"
        "    assert 'TOKEN' not in os.environ\n"
        "    import pytest\n"
        "    assert pytest.__file__.startswith('/tools/')\n"
    )
    await bench.run(PythonTest, {}, {"checkout": bench.tree({"test_x.py": test})})


async def test_many_at_once_fetch_the_tools_once(bench: Any, tmp_path: Any) -> None:
    bench.cache = tmp_path / "fresh" / "cache"
    tree = bench.tree(GOOD)
    await asyncio.gather(*(bench.run(PythonTest, {}, {"checkout": tree}) for _ in range(3)))
    assert sum(line.startswith("fetching") for line in bench.lines) == 1
    started = time.perf_counter()
    await bench.run(PythonTest, {}, {"checkout": tree})
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("lock", "code"),
    [
        ("idna==3.7\n", "lock-invalid"),
        ("idna>=3 --hash=sha256:" + "0" * 64, "lock-invalid"),
        ("--index-url https://evil.example/\n", "lock-invalid"),
        ("-r other.txt\n", "lock-invalid"),
        ("-e .\n", "lock-invalid"),
        ("idna @ https://evil.example/x.whl --hash=sha256:" + "0" * 64, "lock-invalid"),
        ("idna==3.* --hash=sha256:" + "0" * 64, "lock-invalid"),
        ("idna==3.7 --hash=md5:" + "0" * 32, "lock-invalid"),
        ("idna==3.7 --hash=sha256:" + "0" * 64, "wheel-hash"),
    ],
)
async def test_a_lock_of_the_tree_cannot_lead_elsewhere(bench: Any, lock: Any, code: str) -> None:
    tree = bench.tree({**GOOD, "requirements.lock": lock})
    with pytest.raises(StepError) as raised:
        await bench.run(PythonTest, {"requirements": "requirements.lock"}, {"checkout": tree})
    assert raised.value.error_code == code


async def test_a_lock_outside_the_tree_is_not_read(bench: Any) -> None:
    with pytest.raises(StepError):
        await bench.run(PythonTest, {"requirements": "../../../../../etc/passwd"}, {"x": bench.tree(GOOD)})


@pytest.mark.parametrize(
    "data",
    [
        b'<!DOCTYPE x [<!ENTITY a "b">]><testsuite>&a;</testsuite>',
        b'<?xml version="1.0"?><!DOCTYPE x SYSTEM "file:///etc/passwd"><testsuite/>',
        b"<testsuite>",
        b"",
        "<testsuite/>".encode("utf-16"),
    ],
)
def test_reports_that_are_refused(data: Any) -> None:
    with pytest.raises(StepError) as raised:
        read_junit(data, "here")
    assert raised.value.error_code == "junit-invalid"
