"""The embedded engine against a real OPA over generated Rego: the allow-list holds what it promises."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.policy.child import RegoChild
from maestro_dagster.policy.language import BUILTINS

SOAK = os.environ.get("MAESTRO_SOAK") == "1"
CALLS = 150 if SOAK else 12

TEXTS = ["", "a", "abc", "ABC", " x ", "a.b.c", "a/b", "12", "-3", "1.5", "abcabc", "a,b,,c", "\t\n", "日本",
         "é", "1.2.3", "1.2.3-alpha.1", "1.10.0", "10.0.0.0/8", "::1", "aGVsbG8=", "6162", '{"a":1}', "[1,2]",
         "null"]  # fmt: skip
POOLS: dict[str, list[Any]] = {
    "s": TEXTS,
    "l": ["", "abc", "ABC def", "é", "日本"],  # letters that have one other case
    "p": ["^a", "[0-9]+", "a|b", "(a)(b)?", "^[^@]+$", "(?i)AB", "a.c", "x*", ""],
    "q": ["a", "b", "ab", ".", "é"],
    "n": [0, 1, -1, 2, 0.5, -0.5, 1.5, 100, 9007199254740991],
    "i": [0, 1, 2, 3, 7, -1],
    "u": [0, 1, 2, 7],
    "t": [0, 1600000000000000000, 86400000000000],
    "a": [[], [1], [1, 2, 3], ["b", "a", "a"], [[1], [2, 3]], [1, "a", None], [True, False], [{"a": 1}]],
    "g": [[], [1], [1, 2, 3], [7, -2]],  # whole numbers
    "w": [[], ["a"], ["a", "b"], ["", "é"]],
    "o": [{}, {"a": 1}, {"a": {"b": 2}}, {"b": [1, {"c": 3}]}, {"x": None}],
    "O": [[], [{"a": 1}], [{"a": 1}, {"a": {"b": 2}}, {}]],
    "r": [{}, {"a": ["b"], "b": ["c", "a"], "c": []}],
    "f": ["%s", "%v", "%v and %v", "100%%"],
    "V": [["x"], ["x", "y"], [], ["é"]],
}
POOLS["m"] = [None, True, False, *POOLS["s"][:6], *POOLS["n"][:5], *POOLS["a"], *POOLS["o"]]
# Kinds of the arguments, one letter each; {x}: the array as a set.
ARGUMENTS = {
    "abs": "n", "array.concat": "a a", "array.reverse": "a", "array.slice": "a i i", "base64.decode": "s",
    "base64.encode": "s", "base64url.decode": "s", "base64url.encode": "s", "base64url.encode_no_pad": "s",
    "bits.and": "u u", "bits.lsh": "u u", "bits.negate": "u", "bits.or": "u u", "bits.rsh": "u u",
    "bits.xor": "u u", "concat": "s w", "contains": "s s", "count": "m", "endswith": "s s",
    "graph.reachable": "r w", "hex.decode": "s", "hex.encode": "s", "intersection": "{a}", "is_array": "m",
    "is_boolean": "m", "is_null": "m", "is_number": "m", "is_object": "m", "is_set": "m", "is_string": "m",
    "json.is_valid": "s", "json.unmarshal": "s", "lower": "l", "max": "a", "net.cidr_is_valid": "s",
    "numbers.range": "i i", "numbers.range_step": "i i u", "object.filter": "o w", "object.get": "o m m",
    "object.keys": "o", "object.remove": "o w", "object.union": "o o", "object.union_n": "O",
    "product": "g", "regex.find_all_string_submatch_n": "p s i", "regex.find_n": "p s i",
    "regex.match": "p s",
    "replace": "s q s", "round": "n", "semver.compare": "s s", "sort": "a", "split": "s s", "sprintf": "f V",
    "startswith": "s s", "strings.any_prefix_match": "s w", "strings.any_suffix_match": "w s",
    "strings.count": "s s", "strings.replace_n": "o s", "strings.reverse": "s", "substring": "s i i",
    "sum": "g", "time.clock": "t", "time.date": "t", "time.diff": "t t", "time.weekday": "t",
    "to_number": "s",
    "trim": "s s", "trim_left": "s s", "trim_prefix": "s s", "trim_right": "s s", "trim_space": "s",
    "trim_suffix": "s s", "type_name": "m", "union": "{a}", "upper": "l",
}  # fmt: skip

# Bodies with and without something undefined in each place; the right answers are OPA's.
TERMS = ["input.one", "input.text", "input.object", "input.list", "input.none", "input.off",
         "input.gone", "input.object.gone", "one", "gone", "off", "some_set", "1", '"a"', "null",
         "[]"]  # fmt: skip
SHAPES = ["{0}", "{0} == {1}", "{0} != {1}", "{0} in {1}", "not {0}", "not {0} == {1}", "not is_string({0})",
          "not {0} in {1}", "x := {0}; not is_string(x)", "x := {0}; y := {1}; not x in y", "{0} = {1}",
          "every v in {0} {{ v == {1} }}", "every k, v in {0} {{ k == v }}", "some x in {0}; x == {1}",
          "some k, v in {0}; k != v", "count([x | some x in {0}]) == 0", "{{x | some x in {0}}} == {1}",
          "object.get({0}, {1}, 1) == 1", "f({0}) == {1}", "[1, x] = {0}", '{{"k": x}} = {0}',
          "({0}, {1} in {0})", "{0} with input.one as {1}", "not f({0})", "[{0}] == [{1}]",
          "not count([1 | {0}]) == 1"]  # fmt: skip
RULES = """
one := input.one
gone := input.gone
off := input.off
some_set contains input.one
f(x) := x if x == 1
"""
INPUT = {
    "one": 1,
    "text": "a",
    "object": {"k": 1, "a": None},
    "list": [1, "a", None],
    "none": None,
    "off": False,
}


@pytest.fixture
def child() -> Iterator[RegoChild]:
    found = RegoChild(seconds=30)
    yield found
    found.close()


def test_every_builtin_of_the_list_is_compared() -> None:
    assert set(ARGUMENTS) == BUILTINS


@pytest.mark.timeout(900)
def test_builtins_answer_as_in_opa(child: RegoChild, opa: str, tmp_path: Path) -> None:
    rng = random.Random(11)
    rules: list[str] = []
    values: list[list[Any]] = []
    for name, kinds in ARGUMENTS.items():
        for _ in range(CALLS):
            form = None
            terms = []
            chosen = []
            for place, kind in enumerate(kinds.split()):
                value = rng.choice(POOLS[kind.strip("{}")])
                term = f"input[{len(values)}][{place}]"
                if kind == "f":
                    form, term = value, json.dumps(value)
                terms.append(f"{{x | some x in {term}}}" if "{" in kind else term)
                chosen.append(value)
            if form is not None and form.replace("%%", "").count("%") != len(chosen[1]):
                chosen[1] = ["x"] * form.replace("%%", "").count("%")
            values.append(chosen)
            rules.append(f"{name}({', '.join(terms)})")
    verdicts, wrong = compare(child, opa, tmp_path, [f":= {rule}" for rule in rules], values)
    assert [(rules[number], values[number], *answers) for number, *answers in wrong] == []
    assert verdicts["same"] > len(rules) / 3


@pytest.mark.timeout(900)
def test_what_is_undefined_is_so_in_opa(child: RegoChild, opa: str, tmp_path: Path) -> None:
    bodies = [
        shape.format(*terms)
        for shape in SHAPES
        for terms in itertools.product(TERMS, TERMS if "{1}" in shape else [""])
    ]
    if not SOAK:
        bodies = random.Random(5).sample(bodies, 600)
    verdicts, wrong = compare(child, opa, tmp_path, [f"if {{ {body} }}" for body in bodies], INPUT)
    assert [(bodies[number], *answers) for number, *answers in wrong] == []
    # Each kind of outcome was met: the comparison is no comparison of nothing with nothing.
    assert min(verdicts[kind] for kind in ("same", "undefined", "refused")) > 40


def compare(
    child: RegoChild, opa: str, folder: Path, rules: list[str], document: Any
) -> tuple[Counter[str], list[tuple[int, Any, Any]]]:
    """How often which verdict, and (rule, ours, OPA's) of each silent difference."""
    admitted = [number for number, rule in enumerate(rules) if load(child, number, rule)]
    wanted = ask_opa(opa, folder, {number: rules[number] for number in admitted}, document)
    verdicts = Counter(refused=len(rules) - len(admitted))
    wrong = []
    text = json.dumps(document)
    for number in admitted:
        if number not in wanted:
            verdicts["opa refuses"] += 1
            continue
        load(child, number, rules[number])
        answer = child.ask(
            {"op": "evaluate", "key": str(number), "input": text, "rules": [f"data.t.r{number}"]}
        )
        if "error" in answer:
            verdicts["loud"] += 1
            continue
        ours, theirs = answer["values"][0], wanted[number]
        verdicts["same" if "value" in ours else "undefined"] += 1
        if ordered(ours) != ordered(theirs):
            wrong.append((number, ours, theirs))
    return verdicts, wrong


def load(child: RegoChild, number: int, rule: str) -> bool:
    module = f"package t\nimport rego.v1\n{RULES}\nr{number} {rule}\n"
    return "error" not in child.ask(
        {"op": "load", "key": str(number), "modules": [["m", module]], "data": None}
    )


def ask_opa(opa: str, folder: Path, rules: dict[int, str], document: Any) -> dict[int, dict[str, Any]]:
    """Values of the rules; those that OPA does not compile are left out, stage by stage of its compiler."""
    rules = dict(rules)
    path = folder / "module.rego"
    head = f"package t\nimport rego.v1\n{RULES}\n"
    for _ in range(20):
        path.write_text(head + "".join(f"r{number} {rule}\n" for number, rule in rules.items()))
        check = [opa, "check", "--format=json", "--max-errors=100000", str(path)]
        done = subprocess.run(check, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        numbers = list(rules)
        for error in json.loads(done.stderr or done.stdout)["errors"]:
            rules.pop(numbers[error["location"]["row"] - head.count("\n") - 1], None)
    command = [opa, "eval", "--format=json", "--stdin-input", f"--data={path}", "data.t"]
    done = subprocess.run(command, input=json.dumps(document), capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert "errors" not in found, found["errors"]
    values = found["result"][0]["expressions"][0]["value"]
    return {
        number: {"value": values[f"r{number}"]} if f"r{number}" in values else {"undefined": True}
        for number in rules
    }


def ordered(value: Any) -> str:
    """As text, with sets (arrays here) in one order."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{ordered(item)}" for key, item in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(sorted(ordered(item) for item in value)) + "]"
    return json.dumps(value)
