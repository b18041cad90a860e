from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from maestro_dagster.errors import MaestroError, StepError
from maestro_dagster.steps.interface import Network
from maestro_dagster.steps.shell_run import ShellRun, ShellRunConfig
from maestro_dagster.steps.tool_python import ToolPython


async def test_a_command_reads_inputs_and_prints(bench: Any) -> None:
    words = bench.store.put_bytes(b"b\na\n", "text/plain")
    tree = bench.tree({"deep/file": "x"})
    result = await bench.run(ShellRun, {"argv": ["sort", "/inputs/words"]}, {"words": words, "tree": tree})
    assert bench.store.read(result.artifact.digest) == b"a\nb\n"
    assert result.isolation == "namespaces"
    listing = await bench.run(
        ShellRun, {"argv": ["find", "/inputs", "-type", "f"]}, {"words": words, "tree": tree}
    )
    assert sorted(listing.data.split()) == [b"/inputs/tree/deep/file", b"/inputs/words"]


async def test_no_shell_reads_the_arguments(bench: Any) -> None:
    result = await bench.run(ShellRun, {"argv": ["echo", "$HOME; id", "`id`", "*"]})
    assert result.data == b"$HOME; id `id` *\n"


async def test_a_file_or_a_folder_is_kept(bench: Any) -> None:
    script = "mkdir -p out/deep && echo hi > out/deep/x && echo one > y"
    file = await bench.run(ShellRun, {"argv": ["sh", "-c", script], "output": "/scratch/y"})
    assert bench.store.read(file.artifact.digest) == b"one\n"
    folder = await bench.run(ShellRun, {"argv": ["sh", "-c", script], "output": "out"})
    assert bench.files(folder.artifact) == {"deep/x": b"hi\n"}


@pytest.mark.parametrize(
    ("script", "output"),
    [
        ("ln -s {secret} out", "out"),
        ("ln -s {folder} out", "out/key"),
        ("mkdir out && ln -s {secret} out/x", "out"),
        ("ln -s {folder} out", "out"),
        ("mkfifo out", "out"),
        ("true", "out"),
        ("true", "../../../../../etc/passwd"),
    ],
)
async def test_an_output_that_is_a_trap(bench: Any, script: Any, output: Any) -> None:
    folder = bench.root / ".maestro" / "keys"
    folder.mkdir()
    (folder / "key").write_text("SECRET")
    script = script.format(secret=folder / "key", folder=folder)
    with pytest.raises(MaestroError) as raised:
        await bench.run(ShellRun, {"argv": ["sh", "-c", script], "output": output})
    assert raised.value.error_code in {"file-link", "file-kind", "file-missing", "file-path", "tree-link"}
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"argv": ["sh", "-c", "echo wrong >&2; exit 3"]}, "command-failed"),
        ({"argv": ["no-such-thing"]}, "command-failed"),
        ({"argv": ["sleep", "9"], "time_limit": 0.5}, "time-limit"),
        ({"argv": ["python3", "-c", "print('x' * (5 << 20))"]}, "output-limit"),
        ({"argv": ["yes"]}, "output-limit"),
    ],
)
async def test_failures_say_why(bench: Any, config: Any, code: str) -> None:
    with pytest.raises(StepError) as raised:
        await bench.run(ShellRun, config)
    assert raised.value.error_code == code
    if "echo" in str(config):
        assert "exit code 3: wrong" in raised.value.fact


@pytest.mark.parametrize(
    "config", [{"argv": []}, {"argv": [""]}, {"argv": ["a\0b"]}, {"argv": ["a"], "env": {"A=": "x"}}]
)
def test_configs_that_are_refused(config: Any) -> None:
    with pytest.raises(ValidationError):
        ShellRunConfig.model_validate(config)


async def test_without_declared_hosts_there_is_no_proxy(bench: Any) -> None:
    result = await bench.run(ShellRun, {"argv": ["env"]})
    assert b"proxy" not in result.data.lower()
    bench.network = Network(("example.com",))
    assert b"HTTPS_PROXY=http://127.0.0.1" in (await bench.run(ShellRun, {"argv": ["env"]})).data


async def test_what_it_used_is_counted(bench: Any) -> None:
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    await bench.run(ShellRun, {"argv": ["python3", "-c", burn]})
    assert bench.meter.cpu >= 0.3


# --- tool/python

TOOLS = {
    "prices.py": (
        "def add(a, b):\n    return {'sum': a + b}\n"
        "def raw(inputs):\n    return inputs['words'].read_bytes().upper()\n"
        "def fail():\n    raise ValueError('no such price')\n"
        "def odd():\n    return float('nan')\n"
        "class Deep:\n    @staticmethod\n    def go():\n        return [1]\n"
    )
}


@pytest.fixture
def tools(bench: Any) -> Any:
    folder = bench.root / "tools"
    folder.mkdir()
    for name, text in TOOLS.items():
        (folder / name).write_text(text)
    return folder


async def test_a_function_of_the_project(bench: Any, tools: Any) -> None:
    result = await bench.run(ToolPython, {"entry": "prices:add", "args": {"a": 1, "b": 2}})
    assert json.loads(result.data) == {"sum": 3}
    assert result.facts["source"].startswith("sha256:")
    assert json.loads((await bench.run(ToolPython, {"entry": "prices:Deep.go"})).data) == [1]


async def test_a_function_of_an_input_reads_inputs(bench: Any) -> None:
    inputs = {"code": bench.tree(TOOLS), "words": bench.store.put_bytes(b"abc", "text/plain")}
    config = {"entry": "prices:raw", "source": "code", "media_type": "text/plain"}
    result = await bench.run(ToolPython, config, inputs)
    assert (result.data, result.media_type) == (b"ABC", "text/plain")


async def test_an_entry_point_of_a_tree(bench: Any) -> None:
    files = TOOLS | {
        "prices-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: prices\nVersion: 1.0\n",
        "prices-1.0.dist-info/entry_points.txt": "[maestro.tools]\nsum = prices:add\n",
    }
    config = {"entry": "sum", "source": "code", "args": {"a": 2, "b": 2}}
    assert json.loads((await bench.run(ToolPython, config, {"code": bench.tree(files)})).data) == {"sum": 4}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("prices:fail", "no such price"),
        ("prices:nothing", "nothing"),
        ("missing:x", "missing"),
        ("unnamed", "unpack"),
        ("prices:odd", "JSON"),
        ("prices:add", "argument"),
    ],
)
async def test_tool_failures_say_why(bench: Any, tools: Any, entry: Any, says: Any) -> None:
    with pytest.raises(StepError, match=says) as raised:
        await bench.run(ToolPython, {"entry": entry})
    assert raised.value.error_code == "tool-failed"


async def test_a_project_without_tools(bench: Any) -> None:
    with pytest.raises(StepError) as raised:
        await bench.run(ToolPython, {"entry": "prices:add"})
    assert raised.value.error_code == "tool-missing"


async def test_a_link_in_tools_leads_nowhere(bench: Any, tools: Any) -> None:
    (bench.root / ".maestro" / "key").write_text("SECRET")
    (tools / "steal.py").write_text(
        "import pathlib\ndef go():\n    return (pathlib.Path(__file__).parent / 'link').read_text()\n"
    )
    (tools / "link").symlink_to(bench.root / ".maestro" / "key")
    with pytest.raises(Exception, match=r"link|No such file"):
        await bench.run(ToolPython, {"entry": "steal:go"})
