"""Whatever is not a clear yes is a no that says why."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.errors import PolicyError
from maestro_dagster.policy.engine import EmbeddedEngine, open_policy_engine
from maestro_dagster.policy.interface import Decision

GOOD = """package maestro.good
import rego.v1
default allow := false
allow if count(violation) == 0
violation contains {"rule": "never", "message": "no"} if input.never
"""
SLOW = """package maestro.slow
import rego.v1
default allow := false
allow if count(violation) == 0
violation contains "x" if {
    some a in numbers.range(1, 100000)
    some b in numbers.range(1, 100000)
    a + b == 0
}
"""
GREEDY = """package maestro.greedy
import rego.v1
default allow := false
allow if count(numbers.range(1, 1000000000)) == 0
violation contains "x" if false
"""

Packs = Callable[..., Path]
Start = Callable[..., EmbeddedEngine]


def rules(decision: Decision) -> list[str]:
    return [violation.rule for violation in decision.violations]


def pack(body: str, name: str = "one") -> str:
    return f"package maestro.{name}\nimport rego.v1\n{body}\n"


def test_a_good_pack_allows_and_denies(packs: Packs, embedded: Start) -> None:
    engine = embedded(packs(good=GOOD))
    decision = engine.evaluate({})
    assert decision.allow
    assert decision.engine.startswith("regorus 0.")
    assert decision.verdicts[0].digest.startswith("sha256:")
    denied = engine.evaluate({"never": True})
    assert not denied.allow
    assert rules(denied) == ["never"]
    assert denied.input_digest != decision.input_digest


def test_no_pack_denies(packs: Packs, embedded: Start, tmp_path: Path) -> None:
    assert rules(embedded(packs()).evaluate({})) == ["no-packs"]
    assert rules(embedded(tmp_path / "nowhere").evaluate({})) == ["policies-missing"]


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("allow := true", "pack-undefined"),
        ("allow := true\nviolation := {}", "pack-undefined"),
        ("allow := true\nviolation := true", "pack-undefined"),
        ("violation contains 1 if false", "pack-not-allowed"),
        ('allow := "true"\nviolation contains 1 if false', "pack-not-allowed"),
        ("allow := 1\nviolation contains 1 if false", "pack-not-allowed"),
        ("default allow := false\nviolation contains 1 if false", "pack-not-allowed"),
        ('allow := true\nviolation contains "said"', "one-violation"),
        ("allow if {", "pack-load-failed"),
        ("allow := nothing.here(1)\nviolation contains 1 if false", "pack-language-refused"),
        ("allow if input.a\nallow := 2 if input.a\nviolation contains 1 if false", "pack-evaluation-failed"),
        ("allow := 1 / 0\nviolation contains 1 if false", "pack-evaluation-failed"),
    ],
)
def test_what_is_not_a_clear_yes(packs: Packs, embedded: Start, body: str, rule: str) -> None:
    decision = embedded(packs(one=pack(body))).evaluate({"a": 1})
    assert not decision.allow
    assert rules(decision) == [rule]
    assert all(violation.pack == "one" for violation in decision.violations)
    assert "backtrace" not in decision.violations[0].message


def test_old_syntax_is_refused_with_the_way_out(packs: Packs, embedded: Start) -> None:
    decision = embedded(packs(one="package maestro.one\nviolation[msg] { msg := input.x }\n")).evaluate({})
    assert rules(decision) == ["pack-load-failed"]
    assert "opa fmt --v0-v1" in decision.violations[0].remedy


@pytest.mark.parametrize(
    "call",
    [
        'http.send({"method": "GET", "url": "http://127.0.0.1"})',
        "time.now_ns()",
        'rand.intn("a", 3)',
        "opa.runtime()",
        "walk(input)",
        "json.match_schema(input, {})",
        'regex.match("^\\\\d+$", input.a)',
        'sprintf("%d", [1])',
        "sprintf(input.a, [1])",
        "9007199254740993",
    ],
)
def test_the_embedded_engine_refuses_what_it_may_answer_differently(
    packs: Packs, embedded: Start, call: str
) -> None:
    decision = embedded(packs(one=pack(f"allow := true\nviolation contains x if x := {call}"))).evaluate({})
    assert rules(decision) == ["pack-language-refused"]
    assert "opa" in decision.violations[0].remedy


@pytest.mark.parametrize(
    "body",
    [
        'allow if not startswith(input.name, "bad")',
        "allow if not input.name in input.bad",
        "allow if not f(one)",
        "allow if not input.bad[input.name]",
        'allow if { "x": y } = input.object',
        "allow if (0, input.name in input.list)",
        "allow if one with input.a as one",
    ],
)
def test_expressions_that_opa_reads_differently_are_refused(packs: Packs, embedded: Start, body: str) -> None:
    text = pack(f"{body}\none := input.a\nf(x) := x\nviolation contains 1 if false")
    assert rules(embedded(packs(one=text)).evaluate({})) == ["pack-language-refused"]


@pytest.mark.parametrize(
    "body",
    [
        "allow if not input.gone",
        "allow if not input.gone == 1",
        'allow if { name := object.get(input, "name", ""); not startswith(name, "bad") }',
        "allow if { some name in [input.a]; not name in {2, 3} }",
        "allow if { value := input.a; not f(value) with input.a as value }",
    ],
)
def test_and_the_ways_to_write_them_are_not(packs: Packs, embedded: Start, body: str) -> None:
    text = pack(f"{body}\nf(x) if x == 2\nviolation contains 1 if false")
    assert embedded(packs(one=text)).evaluate({"a": 1}).allow


def test_the_example_of_the_readme(repository: Path, packs: Packs, embedded: Start) -> None:
    text = (repository / "policies" / "README.md").read_text().split("```rego\n")[1].split("```")[0]
    engine = embedded(packs(example=text))
    assert rules(engine.evaluate({"flow": {}})) == ["example-owner"]
    assert engine.evaluate({"flow": {"labels": {"team": "a"}}}).allow


def test_own_functions_are_no_builtins(packs: Packs, embedded: Start) -> None:
    text = pack("allow if f(1) == 2\nf(x) := x + 1\nviolation contains 1 if data.maestro.one.f(0) == 5")
    assert embedded(packs(one=text)).evaluate({}).allow


def test_deep_rule_names_and_unknown_imports_are_refused(packs: Packs, embedded: Start) -> None:
    for body in ("a.b.c := 1", "import future.keywords.not"):
        text = f"package maestro.one\nimport rego.v1\n{body}\nallow := true\nviolation contains 1 if false\n"
        assert rules(embedded(packs(one=text)).evaluate({})) == ["pack-language-refused"]


def test_an_endless_pack_is_stopped_and_the_others_answer(packs: Packs, embedded: Start) -> None:
    engine = embedded(packs(slow=SLOW, good=GOOD, zgood=GOOD.replace("good", "zgood")), seconds=1.0)
    start = time.monotonic()
    decision = engine.evaluate({})
    assert time.monotonic() - start < 30
    assert rules(decision) == ["pack-timeout"]
    assert [verdict.allow for verdict in decision.verdicts] == [True, False, True]


def test_a_greedy_pack_meets_the_memory_limit(packs: Packs, embedded: Start) -> None:
    engine = embedded(packs(greedy=GREEDY, good=GOOD), memory_bytes=512 << 20, seconds=20)
    decision = engine.evaluate({})
    assert not decision.allow
    assert rules(decision)[0] in ("pack-crashed", "pack-evaluation-failed")
    assert engine.evaluate({}).verdicts[0].allow


def test_a_panic_of_the_engine_denies(packs: Packs, embedded: Start) -> None:
    engine = embedded(
        packs(one=pack('allow if strings.count("abc", input.a) == 1\nviolation contains 1 if false'))
    )
    assert rules(engine.evaluate({"a": ""})) == ["pack-evaluation-failed"]
    assert engine.evaluate({"a": "b"}).allow


def test_a_killed_child_is_started_again(packs: Packs, embedded: Start) -> None:
    engine = embedded(packs(good=GOOD))
    assert engine.evaluate({}).allow
    process = engine.child._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert engine.evaluate({}).allow


def test_a_changed_pack_counts_at_once(packs: Packs, embedded: Start) -> None:
    engine = embedded(packs(good=GOOD))
    first = engine.evaluate({})
    packs(good=GOOD.replace("if input.never", "if true"))
    second = engine.evaluate({})
    assert (first.allow, second.allow) == (True, False)
    assert first.verdicts[0].digest != second.verdicts[0].digest


def test_tests_of_a_pack_are_never_enforced(packs: Packs, embedded: Start) -> None:
    folder = packs(good=GOOD)
    engine = embedded(folder)
    before = engine.evaluate({}).verdicts[0].digest
    (folder / "good" / "good_test.rego").write_text("this is no rego")
    after = engine.evaluate({})
    assert after.allow
    assert after.verdicts[0].digest == before


def test_data_stands_under_the_packs_name(packs: Packs, embedded: Start) -> None:
    text = pack("allow if data.one.open == true\nviolation contains 1 if false")
    assert embedded(packs(one=text, data={"one": {"open": True}})).evaluate({}).allow
    assert not embedded(packs(one=text, data={"one": {}})).evaluate({}).allow


def test_a_pack_cannot_stand_in_for_another(packs: Packs, embedded: Start) -> None:
    decision = embedded(packs(good=GOOD, evil=GOOD)).evaluate({})
    assert rules(decision) == ["pack-load-failed"]
    assert decision.violations[0].pack == "evil"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.json", b"{"),
        ("data.json", b'{"a": NaN}'),
        ("data.json", b'{"a": 9007199254740993}'),
        ("more.rego", b"\xff"),
        ("more.rego", b"x" * (1024 * 1024 + 1)),
    ],
)
def test_a_broken_file_denies(packs: Packs, embedded: Start, name: str, content: bytes) -> None:
    folder = packs(good=GOOD)
    (folder / "good" / name).write_bytes(content)
    decision = embedded(folder).evaluate({})
    assert not decision.allow
    assert rules(decision)[0] in ("pack-load-failed", "pack-language-refused")


def test_files_in_the_wrong_place_deny(packs: Packs, embedded: Start) -> None:
    folder = packs(good=GOOD)
    (folder / "good" / "deep").mkdir()
    (folder / "good" / "deep" / "x.rego").write_text(GOOD)
    assert rules(embedded(folder).evaluate({})) == ["pack-load-failed"]
    (folder / "good" / "deep" / "x.rego").unlink()
    (folder / "loose.rego").write_text(GOOD)
    assert rules(embedded(folder).evaluate({})) == ["policy-outside-pack"]


def test_an_input_that_is_no_json_denies(packs: Packs, embedded: Start) -> None:
    assert rules(embedded(packs(good=GOOD)).evaluate({"a": float("nan")})) == ["policy-input-invalid"]


def test_violations_keep_their_fields_and_their_order(packs: Packs, embedded: Start) -> None:
    body = """allow := false
violation contains {"rule": "b", "step": "s", "path": "/p", "message": "m", "remedy": "r"}
violation contains {"rule": "a", "msg": "old spelling", "pack": "forged"}
warning contains "look here"
"""
    verdict = embedded(packs(one=pack(body))).evaluate({}).verdicts[0]
    assert [violation.to_json() for violation in verdict.violations] == [
        {"rule": "a", "pack": "one", "step": "", "path": "", "message": "old spelling", "remedy": ""},
        {"rule": "b", "pack": "one", "step": "s", "path": "/p", "message": "m", "remedy": "r"},
    ]
    assert verdict.warnings == ("look here",)


def test_threads_share_the_child(packs: Packs, embedded: Start) -> None:
    engine = embedded(packs(good=GOOD))
    answers: list[bool] = []

    def ask(never: bool) -> None:
        answers.extend(engine.evaluate({"never": never}).allow is not never for _ in range(20))

    threads = [threading.Thread(target=ask, args=(bool(number % 2),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 80


def test_a_forked_process_gets_a_child_of_its_own(packs: Packs, embedded: Start) -> None:
    engine = embedded(packs(good=GOOD))
    assert engine.evaluate({}).allow
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writer, b"1" if engine.evaluate({}).allow else b"0")
        engine.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 1) == b"1"
    assert engine.evaluate({}).allow


def test_the_child_sees_nothing_of_the_environment(
    packs: Packs, embedded: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAESTRO_SECRET_TOKEN", "hunter2")
    engine = embedded(packs(good=GOOD))
    engine.evaluate({})
    process = engine.child._process
    assert process is not None
    assert b"hunter2" not in Path(f"/proc/{process.pid}/environ").read_bytes()


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        open_policy_engine(tmp_path, kind="regopy")
    assert caught.value.error_code == "policy-engine-unknown"


def test_an_opa_that_is_not_there_denies(packs: Packs) -> None:
    engine: Any = open_policy_engine(packs(good=GOOD), kind="opa", command="/nowhere/opa")
    assert rules(engine.evaluate({})) == ["engine-missing"]
    engine = open_policy_engine(packs(good=GOOD), kind="opa", command="/bin/true")
    assert not engine.evaluate({}).allow
