"""Texts made to break readers: each gets a coded finding within a second and 100 MB, never a crash."""

from __future__ import annotations

import base64
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.manifest.document import MAX_BYTES, DocumentError, decode
from maestro_dagster.manifest.json_document import parse_json
from maestro_dagster.manifest.lint_name import skeleton
from maestro_dagster.manifest.read import ReadResult, lint_file, read_flow_text
from maestro_dagster.manifest.yaml_document import parse_full_yaml, parse_yaml

FILES = ["alias_cycle", "billion_laughs", "duplicate_keys", "merge_key_bomb", "python_tag"]
CODES = ["yaml-alias-cycle", "yaml-alias-bomb", "duplicate-key", "yaml-merge", "yaml-tag"]
MEGABYTE = 1024 * 1024


@pytest.fixture
def torture(corpus: Path) -> Path:
    return corpus / "12-torture"


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def codes(result: ReadResult) -> list[str]:
    assert all(each.message and each.remedy and each.line for each in result.diagnostics)
    return [each.code for each in result.diagnostics]


@pytest.mark.parametrize(("name", "code"), list(zip(FILES, CODES, strict=True)))
def test_files_that_must_be_refused(torture: Path, name: str, code: str) -> None:
    assert codes(lint_file(torture / f"{name}.yaml")) == [code]


def test_words_of_yaml_1_1_stay_texts(torture: Path) -> None:
    tree = parse_yaml((torture / "norway.yaml").read_text())
    assert [tree[key] for key in ("country", "answer", "time", "date")] == [
        "NO",
        "on",
        "12:30:45",
        "2024-01-01",
    ]
    assert [tree[key] for key in ("octal", "hex", "nul", "sci", "empty")] == [10, 31, None, 1000.0, None]


def test_yaml_errors_name_line_and_column(torture: Path) -> None:
    for case in load(torture / "yaml_errors.json")["cases"]:
        result = read_flow_text(case["yaml"].encode(), "case.yaml")
        assert result.flow is None, case["id"]
        assert codes(result)[0].startswith("yaml-"), (case["id"], result.diagnostics)


def test_valid_yaml_has_its_json_value(torture: Path) -> None:
    for case in load(torture / "yaml_valid.json")["cases"]:
        for read in (parse_yaml, parse_full_yaml):
            try:
                value = read(case["yaml"])
            except DocumentError as refused:
                assert not case["pyyaml_safe_load_equals_json"], (case["id"], refused.message)  # noqa: PT017
            else:
                assert value == case["json"], case["id"]


def test_json_is_strict(torture: Path) -> None:
    for case in load(torture / "json_parsing.json")["cases"]:
        data = base64.b64decode(case["base64"])
        try:
            parse_json(decode(data))
        except DocumentError as refused:
            assert case["verdict"] != "accept", (case["name"], refused.message)  # noqa: PT017
        else:
            assert case["verdict"] != "reject", case["name"]
        assert read_flow_text(data, "case.json").flow is None


def test_names_that_look_alike_are_refused_or_warned_of(torture: Path) -> None:
    for pair in load(torture / "confusable_names.json")["pairs"]:
        steps = [{"id": name, "uses": "pkg:http/get@1.0.0"} for name in (pair["a"], pair["b"])]
        text = json.dumps({"name": "sample", "version": "1.0.0", "tasks": steps})
        result = read_flow_text(text.encode(), "case.json")
        assert result.flow is None or "confusable-name" in codes(result), pair["what"]
        flow = json.dumps({"name": pair["b"] + "xx", "version": "1.0.0", "tasks": steps[:1]})
        if not pair["b"].isascii():
            assert read_flow_text(flow.encode(), "case.json").flow is None, pair["what"]


def test_skeletons() -> None:
    assert skeleton("deploy-1") == skeleton("dep1oy_l") == skeleton("DEPLOY-I")
    assert skeleton("modern") == skeleton("rnodem")
    assert skeleton("build") != skeleton("test")


HOSTILE = {
    "brackets": b"[" * 65_536,
    "braces": b'{"a":' * 13_000,
    "dashes": b"- " * 32_768,
    "anchors": b"- &a [x]\n" * 7_000,
    "unclosed_quote": b'a: "' + b"x\n" * 32_000,
    "unclosed_list": b"[" + b"a," * 32_000,
    "colons": b"a: b: c\n" * 8_000,
    "nul": b"\0" * 65_536,
    "one_line": b"x" * 65_536,
    "long_key": b"x" * 65_000 + b": 1",
    "blank": b"\n" * 65_536,
    "tags": b"!a " * 20_000,
    "utf16": "name: x\n".encode("utf-16") * 3_000,
    "expressions": b"name: abc\nversion: 1.0.0\ntasks:\n- id: a\n  uses: pkg:a/b@1.0.0\n  if: '"
    + b"(" * 60_000
    + b"'",
    "unknown_keys": b"tasks: []\n" + b"".join(b"k%d: 1\n" % n for n in range(7_000)),
    "bad_steps": b"tasks:\n" + b"- {id: 1}\n" * 6_500,
    "bad_needs": b"name: abc\nversion: 1.0.0\ntasks:\n"
    + b"".join(b"- {id: s%d, uses: 'pkg:a/b@1.0.0', needs: [t%d]}\n" % (n, n) for n in range(1_200)),
    "too_large": b"a" * (MAX_BYTES + 1),
}
CHILD = """
import sys, time
from pathlib import Path
from maestro_dagster.manifest.read import lint_file
from maestro_dagster.manifest import explain, lint_expression, lint_flow, lint_graph, lint_name
started = time.process_time()
result = lint_file(Path(sys.argv[1]))
spent = time.process_time() - started
# Not ru_maxrss: a new process inherits the peak of the one that forked it.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(result.diagnostics[0].code, spent, int(peak.split()[1]) // 1024)
assert result.flow is None
"""


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_cost_little(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"case.{suffix}"
    path.write_bytes(HOSTILE[name])

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (5, 5))

    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert done.returncode == 0, done.stderr
    code, seconds, megabytes = done.stdout.split()
    assert code not in ("internal", "None")
    assert float(seconds) < 1.0, f"{code} took {seconds} s of CPU"
    assert int(megabytes) < 100


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(1024**4)  # a terabyte of nothing, on no disk
    assert [each.code for each in lint_file(path).diagnostics] == ["too-large"]
    assert [each.code for each in lint_file(tmp_path).diagnostics] == ["file-unreadable"]
    assert [each.code for each in lint_file(tmp_path / "none.yaml").diagnostics] == ["file-unreadable"]
    assert [each.code for each in lint_file(Path("a\0b")).diagnostics] == ["file-unreadable"]
