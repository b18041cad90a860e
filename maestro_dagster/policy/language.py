"""Which Rego the embedded engine may be trusted with.

regorus differs from OPA without a word in a few places. So it only gets packs whose every builtin and
language feature is known to answer as OPA does; `tests/conformance/test_rego.py` keeps the list honest.
A pack outside the list is refused, never guessed at: such packs need a real OPA (`policy_engine = "opa"`).

Runs inside the child process on the syntax tree that regorus hands out; imports nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Pure, deterministic, and equal to OPA in the differential tests. Anything else is refused.
BUILTINS = frozenset(
    {
        "abs", "array.concat", "array.reverse", "array.slice", "base64.decode", "base64.encode", "ceil",
        "concat", "contains", "count", "endswith", "floor", "format_int", "indexof", "intersection",
        "is_array", "is_boolean", "is_null", "is_number", "is_object", "is_set", "is_string",
        "json.marshal", "json.unmarshal", "lower", "max", "min", "numbers.range", "object.filter",
        "object.get", "object.keys", "object.remove", "object.subset", "object.union", "product",
        "regex.match", "replace", "round", "semver.compare", "semver.is_valid", "sort", "split", "sprintf",
        "startswith", "strings.any_prefix_match", "strings.any_suffix_match", "substring", "sum",
        "trim", "trim_left", "trim_prefix", "trim_right", "trim_space", "trim_suffix", "type_name", "union",
        "upper",
    }
)  # fmt: skip

Node = Mapping[str, Any]


def find_problems(tree: Node, functions: frozenset[str]) -> list[str]:
    """What in one module is outside the list, each as `line N: what`. Empty means admitted.

    Args:
        tree: `ast` of one module as regorus gives it.
        functions: full names (`data.maestro.pii.f`) of every function of the loaded modules.
    """
    package = "data." + ".".join(_path(tree["package"]["refr"]) or ())
    aliases = _aliases(tree)
    problems = []
    for rule in tree["rules"]:
        problems += _check_head(rule)
        for kind, node in _nodes(rule):
            if kind == "Call":
                problems += _check_call(node, package, aliases, functions)
    return problems


def list_functions(tree: Node) -> Iterator[str]:
    """Full names of the functions that a module defines."""
    package = ("data", *(_path(tree["package"]["refr"]) or ()))
    for rule in tree["rules"]:
        head = rule["Spec"]["head"] if "Spec" in rule else rule["Default"] if rule["Default"]["args"] else {}
        function = head.get("Func", head if "args" in head else None)
        if function is not None:
            path = _path(function["refr"])
            if path:
                yield ".".join((*package, *path))


def _aliases(tree: Node) -> dict[str, str]:
    found = {}
    for imported in tree["imports"]:
        path = _path(imported["refr"])
        if path:
            alias = imported.get("as")
            name = alias.get("value") if isinstance(alias, Mapping) else alias
            found[name if isinstance(name, str) else path[-1]] = ".".join(path)
    return found


def _check_head(rule: Node) -> list[str]:
    """Rule heads deeper than `name`, `name[key]` or `name.part`: regorus answers deep queries differently."""
    if "Spec" not in rule:
        return []
    head = rule["Spec"]["head"]
    reference = next(iter(head.values()))["refr"]
    depth = 0
    while "Var" not in reference:
        reference = next(iter(reference.values()))["refr"]
        depth += 1
    limit = 0 if "Set" in head else 1
    if depth > limit:
        return [f"line {_line(rule['Spec'])}: a rule name of more than {limit + 1} parts"]
    return []


def _check_call(node: Node, package: str, aliases: Mapping[str, str], functions: frozenset[str]) -> list[str]:
    path = _path(node["fcn"])
    if path is None:
        return [f"line {_line(node)}: a call of something that is not a name"]
    name = ".".join(path)
    head, *rest = path
    expanded = ".".join((aliases.get(head, head), *rest))
    if expanded in functions or f"{package}.{name}" in functions or name in BUILTINS:
        return []
    return [f"line {_line(node)}: the builtin {name}"]


def _nodes(value: Any) -> Iterator[tuple[str, Node]]:
    stack = [value]
    while stack:
        here = stack.pop()
        if isinstance(here, Mapping):
            for key, item in here.items():
                if key[:1].isupper() and isinstance(item, Mapping):
                    yield key, item
                if key != "span":
                    stack.append(item)
        elif isinstance(here, list):
            stack.extend(here)


def _path(node: Node) -> tuple[str, ...] | None:
    """`a.b["c"]` as ("a", "b", "c"); None when some part is not a constant."""
    parts: list[str] = []
    while "Var" not in node:
        if "RefDot" in node:
            parts.append(node["RefDot"]["field"][1])
            node = node["RefDot"]["refr"]
        elif "RefBrack" in node and "String" in node["RefBrack"]["index"]:
            parts.append(node["RefBrack"]["index"]["String"]["value"])
            node = node["RefBrack"]["refr"]
        else:
            return None
    return (node["Var"]["value"], *reversed(parts))


def _line(node: Node) -> int:
    return int(node.get("span", {}).get("line", 0))
