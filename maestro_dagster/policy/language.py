"""Which Rego the embedded engine may be trusted with.

regorus differs from OPA without a word in a few places. So it only gets packs whose builtins and
language features answer as OPA does; `tests/conformance/` compares the two over generated calls and
keeps the list honest. A pack outside the list is refused, never guessed at: it needs a real OPA
(`policy_engine = "opa"`). Not on the list for a reason: `walk`, `json.match_schema`, `glob.match`,
`semver.is_valid`, `time.parse_rfc3339_ns`, `min`, `floor`, `ceil`, `object.subset` (all answer
differently in corners), and everything that is not deterministic.

Some differences are in the language. OPA takes references out of a negated expression, so that
`not startswith(input.x, "a")` is undefined without `input.x`, where regorus says true: inside `not`
only constants, local variables, a reference that stands alone, and == between such are admitted.
Objects as patterns, `key, value in`, and deep rule names are refused, too.

What stays different, and only there: arithmetic on fractions (binary here, decimal in OPA: last
digits), `lower` and `upper` of the few letters that change their length or depend on their place
(ß, İ, final sigma), the order between a set and an object, `replace` of an empty text beside
non-ASCII, `substring` at a fraction, and how `sprintf` prints a fraction or a number under %s.

Runs inside the child process on the syntax tree that regorus hands out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Pure, deterministic, and equal to OPA in the differential test. Anything else is refused.
BUILTINS = frozenset(
    {
        "abs", "array.concat", "array.reverse", "array.slice", "base64.decode", "base64.encode",
        "base64url.decode", "base64url.encode", "base64url.encode_no_pad", "bits.and", "bits.lsh",
        "bits.negate", "bits.or", "bits.rsh", "bits.xor", "concat", "contains", "count", "endswith",
        "graph.reachable", "hex.decode", "hex.encode", "intersection", "is_array", "is_boolean", "is_null",
        "is_number", "is_object", "is_set", "is_string", "json.is_valid", "json.unmarshal", "lower", "max",
        "net.cidr_is_valid", "numbers.range", "numbers.range_step", "object.filter", "object.get",
        "object.keys", "object.remove", "object.union", "object.union_n", "product",
        "regex.find_all_string_submatch_n", "regex.find_n", "regex.match", "replace", "round",
        "semver.compare", "sort", "split", "sprintf", "startswith", "strings.any_prefix_match",
        "strings.any_suffix_match", "strings.count", "strings.replace_n", "strings.reverse", "substring",
        "sum", "time.clock", "time.date", "time.diff", "time.weekday", "to_number", "trim", "trim_left",
        "trim_prefix", "trim_right", "trim_space", "trim_suffix", "type_name", "union", "upper",
    }
)  # fmt: skip
MAX_INTEGER = 2**53 - 1  # beyond it regorus computes with floats where OPA is exact
_IMPORTS = ("rego.v1", "future.keywords.in", "future.keywords.if", "future.keywords.every",
            "future.keywords.contains", "future.keywords")  # fmt: skip
# \d is [0-9] in OPA, and every digit of Unicode in regorus; so with its sisters.
_UNICODE_CLASS = re.compile(r"\\[dDwWsSbB]")
_VERBS = re.compile(r"%(?![sv%])")

Node = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Scope:
    """What names mean in one module. `names` are no local variables: rules and imports."""

    package: str
    aliases: Mapping[str, str]
    functions: frozenset[str]
    names: frozenset[str]


def find_problems(tree: Node, functions: frozenset[str], names: frozenset[str]) -> list[str]:
    """What in one module is outside the list, each as `line N: what`. Empty means admitted.

    Args:
        tree: `ast` of one module as regorus gives it.
        functions: full names (`data.maestro.pii.f`) of every function of the loaded modules.
        names: first parts of the rules' names of every loaded module: what is no local variable.

    """
    aliases = _aliases(tree)
    scope = _Scope(f"data.{read_package(tree)}", aliases, functions, names | aliases.keys())
    problems = [
        f"line {_line(imported)}: the import of {name}"
        for imported in tree["imports"]
        for name in [".".join(_path(imported["refr"]) or ("?",))]
        if not name.startswith(("data.", "input.")) and name not in ("data", "input", *_IMPORTS)
    ]
    for rule in tree["rules"]:
        problems += _check_head(rule)
        for kind, node in _nodes(rule):
            what = _check_node(kind, node, scope)
            if what:
                problems.append(f"line {_line(node)}: {what}")
    return problems


def _check_node(kind: str, node: Node, scope: _Scope) -> str:
    if kind == "Call":
        return _check_call(node, scope)
    if kind == "Number":
        return "" if _is_exact(node["value"]) else "a number beyond 2^53"
    if kind == "Membership" and node["key"] is not None:
        return "`key, value in`; write `some key, value in` and compare"
    if kind == "with_mods" and _has_rule(node["as"], scope.names):
        return "a rule as the value of `with`; give it to a variable first"
    if kind == "NotExpr" and _is_hoisted(node["expr"], scope.names):
        return (
            "a reference inside `not`; give it to a variable first, with object.get where it may be missing"
        )
    return "an object as a pattern; compare its fields" if _has_object_pattern(kind, node) else ""


def find_text_problems(texts: list[tuple[str, Any]]) -> list[str]:
    """Regular expressions that mean something else here, in a pack that uses any.

    Args:
        texts: (name, syntax tree or JSON) of each module and of the data.

    """
    if not any(_uses_regex(value) for _, value in texts):
        return []
    return [
        f"{name}: {found[0]} in a regular expression; write out the characters, such as [0-9]"
        for name, value in texts
        for text in _strings(value)
        if (found := _UNICODE_CLASS.search(text))
    ]


def find_data_problems(data: Any) -> list[str]:
    """Numbers of data.json that regorus would round."""
    return [
        f"data.json: {number} is a number beyond 2^53; write it as a string"
        for number in _numbers(data)
        if not _is_exact(number)
    ]


def read_package(tree: Node) -> str:
    """`maestro.pii`."""
    return ".".join(_path(tree["package"]["refr"]) or ())


def list_functions(tree: Node) -> Iterator[str]:
    """Full names of the functions that a module defines."""
    package = ("data", read_package(tree))
    for rule in tree["rules"]:
        head = rule["Spec"]["head"] if "Spec" in rule else rule["Default"] if rule["Default"]["args"] else {}
        function = head.get("Func", head if "args" in head else None)
        if function is not None:
            path = _path(function["refr"])
            if path:
                yield ".".join((*package, *path))


def list_names(tree: Node) -> Iterator[str]:
    """First parts of the names of a module's rules."""
    for rule in tree["rules"]:
        node = (
            rule["Default"]["refr"]
            if "Default" in rule
            else next(iter(rule["Spec"]["head"].values()))["refr"]
        )
        while "Var" not in node:
            node = next(iter(node.values()))["refr"]
        yield node["Var"]["value"]


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


def _check_call(node: Node, scope: _Scope) -> str:
    path = _path(node["fcn"])
    if path is None:
        return "a call of something that is not a name"
    name = ".".join(path)
    head, *rest = path
    expanded = ".".join((scope.aliases.get(head, head), *rest))
    if expanded in scope.functions or f"{scope.package}.{name}" in scope.functions:
        return ""
    if name == "sprintf":
        return _check_format(node)
    return "" if name in BUILTINS else f"the builtin {name}"


def _check_format(node: Node) -> str:
    literal = _literal(node["params"][0]) if node["params"] else None
    if literal is None:
        return "sprintf with a format that is no literal"
    if _VERBS.search(literal["value"].replace("%%", "")):
        return "sprintf with a verb other than %s and %v"
    return ""


def _has_rule(value: Any, names: frozenset[str]) -> bool:
    """Whether a rule is read in it. Calling a function is no reading."""
    called = {
        id(node["fcn"]["Var"]) for kind, node in _nodes(value) if kind == "Call" and "Var" in node["fcn"]
    }
    return any(
        kind == "Var" and id(node) not in called and node["value"] in names for kind, node in _nodes(value)
    )


def _has_object_pattern(kind: str, node: Node) -> bool:
    """An object to be matched against another: in regorus `{"k": x}` fits objects with more keys."""
    if kind == "AssignExpr":
        sides = [node["lhs"], node["rhs"]] if node["op"] == "Eq" else [node["lhs"]]
    elif kind == "SomeIn":
        sides = [node["key"], node["value"]]
    else:
        sides = node["args"] if kind == "Func" else []
    return any(
        found == "Object" and any(inner == "Var" for inner, _ in _nodes(pattern))
        for found, pattern in _nodes(sides)
    )


def _is_hoisted(expression: Node, names: frozenset[str]) -> bool:
    """Whether OPA would evaluate some part of a negated expression outside of the negation."""
    kind, node = next(iter(expression.items()))
    if kind in ("RefDot", "RefBrack", "Var"):
        return _has_reference(_indices(expression), names)
    if kind in ("BoolExpr", "AssignExpr") and node["op"] == "Eq":
        return any(_is_hoisted_side(side, names) for side in (node["lhs"], node["rhs"]))
    if kind == "Call":
        return _has_reference(node["params"], names)
    return _has_reference(expression, names)


def _is_hoisted_side(side: Node, names: frozenset[str]) -> bool:
    alone = next(iter(side)) in ("RefDot", "RefBrack", "Var")
    return _has_reference(_indices(side) if alone else side, names)


def _indices(reference: Node) -> list[Node]:
    """What stands in the brackets of a reference, and its head when that is no variable."""
    found = []
    while True:
        kind, node = next(iter(reference.items()))
        if kind == "RefBrack":
            found.append(node["index"])
        elif kind != "RefDot":
            return found if kind == "Var" else [*found, reference]
        reference = node["refr"]


def _has_reference(value: Any, names: frozenset[str]) -> bool:
    """Whether a reference, a rule or a call stands in it. Comprehensions are closed: OPA leaves them."""
    if isinstance(value, list):
        return any(_has_reference(item, names) for item in value)
    if not isinstance(value, Mapping):
        return False
    if any(kind in value for kind in ("RefDot", "RefBrack", "Call")):
        return True
    if "Var" in value:
        return value["Var"]["value"] in names or value["Var"]["value"] in ("input", "data")
    return any(
        _has_reference(item, names)
        for kind, item in value.items()
        if kind not in ("ArrayCompr", "SetCompr", "ObjectCompr", "span")
    )


def _literal(node: Node) -> Node | None:
    found: Node | None = node.get("String") or node.get("RawString")
    return found


def _uses_regex(value: Any) -> bool:
    return any(kind == "Call" and (_path(node["fcn"]) or ("",))[0] == "regex" for kind, node in _nodes(value))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping) and "package" in value and "rules" in value:
        for kind, node in _nodes(value):
            if kind in ("String", "RawString"):
                yield node["value"]
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _is_exact(value: Any) -> bool:
    return not isinstance(value, int | float) or -MAX_INTEGER <= value <= MAX_INTEGER


def _nodes(value: Any) -> Iterator[tuple[str, Node]]:
    stack = [value]
    while stack:
        here = stack.pop()
        if isinstance(here, Mapping):
            for key, item in here.items():
                if key[:1].isupper() and isinstance(item, Mapping):
                    yield key, item
                elif key == "with_mods":
                    yield from ((key, each) for each in item)
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
