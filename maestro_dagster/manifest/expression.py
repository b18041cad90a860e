"""`${{ ... }}` in a flow: parsed into a tree and looked up, never evaluated as code.

    expression := or ; or := and ("||" and)* ; and := compare ("&&" compare)*
    compare    := unary (("==" | "!=" | "<" | "<=" | ">" | ">=") unary)?
    unary      := "!" unary | "(" expression ")" | literal | reference
    literal    := 'text' ('' is one quote) | number | true | false | null
    reference  := name ("." name | "[" number "]" | "['" text "']")*

`==` compares as JSON does: a string never equals a number. `||` and `&&` answer one of their operands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from textwrap import shorten
from typing import Any

from maestro_dagster.errors import ManifestError

MAX_LENGTH = 4096  # characters of one expression
MAX_DEPTH = 32  # parentheses and negations within each other
ROOTS = ("params", "steps", "git", "run", "item", "index")
# All texts; those from `event` on are empty where the forge said nothing of the kind.
GIT_FIELDS = (
    *("sha", "ref", "branch", "repository", "before", "event_id", "author", "message"),
    *("event", "action", "number", "id", "title", "base_ref", "head_ref", "url", "labels", "conclusion"),
    "fork",
)
STEP_FIELDS = ("output", "digest", "status")

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^']++|'')*'(?!'))
    | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<name>[A-Za-z_][A-Za-z0-9_-]*)
    | (?P<mark>==|!=|<=|>=|&&|\|\||[<>!().\[\]])
    )""",
    re.VERBOSE,
)
_PART = re.compile(r"[A-Za-z0-9_-]+")
# The end of an expression, not looking into its quoted texts. No two branches begin alike and none gives
# back a part, so no text makes the search go back and forth. (A possessive group is broken before 3.11.5.)
_END = re.compile(r"(?:[^'}]++|'[^']*+'|\}(?!\}))*\}\}")
_CONSTANTS = {"true": True, "false": False, "null": None}
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")


@dataclass(frozen=True, slots=True)
class Reference:
    """A path into the scope, such as `steps.scan.output.findings[0].id`."""

    path: tuple[str | int, ...]

    @property
    def root(self) -> str:
        return str(self.path[0])

    @property
    def step(self) -> str | None:
        """The step that is read, for `steps.<id>...`."""
        return str(self.path[1]) if self.root == "steps" and len(self.path) > 1 else None

    def __str__(self) -> str:
        text = self.root
        for part in self.path[1:]:
            if isinstance(part, int):
                text += f"[{part}]"
            elif _PART.fullmatch(part):
                text += f".{part}"
            else:
                text += "['" + part.replace("'", "''") + "']"
        return text


@dataclass(frozen=True, slots=True)
class Literal:
    value: Any


@dataclass(frozen=True, slots=True)
class Operation:
    """`sign` is an operator of the grammar; `!` has one operand, all others two."""

    sign: str
    operands: tuple[Expression, ...]


Expression = Reference | Literal | Operation


@lru_cache(maxsize=4096)
def parse_expression(text: str) -> Expression:
    """The tree of one expression (what stands between `${{` and `}}`). Raises ManifestError `expression`."""
    if len(text) > MAX_LENGTH:
        raise _refused(text, f"it is longer than {MAX_LENGTH} characters")
    return _Parser(text).parse()


@lru_cache(maxsize=4096)
def parse_template(text: str) -> tuple[str | Expression, ...]:
    """Plain text and expressions of a string, in order. Raises ManifestError `expression`."""
    parts: list[str | Expression] = []
    position = 0
    while (start := text.find("${{", position)) >= 0:
        end = _END.match(text, start + 3)
        if end is None:
            raise _refused(text[start:], "its `${{` is not closed by `}}`")
        if start > position:
            parts.append(text[position:start])
        parts.append(parse_expression(text[start + 3 : end.end() - 2]))
        position = end.end()
    if position < len(text) or not parts:
        parts.append(text[position:])
    return tuple(parts)


def parse_condition(text: str) -> Expression:
    """The tree of an `if:`, with or without `${{ }}` around it."""
    stripped = text.strip()
    if stripped.startswith("${{") and stripped.endswith("}}") and stripped.count("${{") == 1:
        stripped = stripped[3:-2]
    return parse_expression(stripped)


def resolve(value: Any, scope: Mapping[str, Any]) -> Any:
    """`value` (any JSON) with its expressions replaced by what they name in `scope`.

    A string that is one expression becomes the value itself, of whatever type; within other text a
    string stands as it is, null as nothing, all else as JSON. Raises ManifestError
    `expression-unknown` for what the scope does not have.
    """
    if isinstance(value, str):
        return _resolve_text(value, scope) if "${{" in value else value
    if isinstance(value, Mapping):
        return {key: resolve(each, scope) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [resolve(each, scope) for each in value]
    return value


def _resolve_text(text: str, scope: Mapping[str, Any]) -> Any:
    parts = parse_template(text)
    if len(parts) == 1 and not isinstance(parts[0], str):
        return evaluate(parts[0], scope)
    return "".join(part if isinstance(part, str) else _as_text(evaluate(part, scope)) for part in parts)


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def references(value: Any) -> set[Reference]:
    """Every reference in the expressions of `value` (any JSON)."""
    found: set[Reference] = set()
    if isinstance(value, str):
        if "${{" in value:
            for part in parse_template(value):
                if not isinstance(part, str):
                    found.update(references_of(part))
    elif isinstance(value, Mapping):
        for each in value.values():
            found |= references(each)
    elif isinstance(value, list | tuple):
        for each in value:
            found |= references(each)
    return found


def references_of(expression: Expression) -> Iterator[Reference]:
    """Every reference in one parsed expression."""
    if isinstance(expression, Reference):
        yield expression
    elif isinstance(expression, Operation):
        for operand in expression.operands:
            yield from references_of(operand)


def evaluate_condition(text: str, scope: Mapping[str, Any]) -> bool:
    """Whether an `if:` holds in `scope`. Null, false, 0 and the empty string do not hold."""
    return is_true(evaluate(parse_condition(text), scope))


def evaluate(expression: Expression, scope: Mapping[str, Any]) -> Any:
    """The value of a parsed expression in `scope`."""
    if isinstance(expression, Literal):
        return expression.value
    if isinstance(expression, Reference):
        return _look_up(expression, scope)
    left = evaluate(expression.operands[0], scope)
    sign = expression.sign
    if sign == "!":
        return not is_true(left)
    if sign == "&&":
        return evaluate(expression.operands[1], scope) if is_true(left) else left
    if sign == "||":
        return left if is_true(left) else evaluate(expression.operands[1], scope)
    return _compare(sign, left, evaluate(expression.operands[1], scope))


def is_true(value: Any) -> bool:
    return not (value is None or value is False or value == "" or (_is_number(value) and value == 0))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _compare(sign: str, left: Any, right: Any) -> bool:
    if sign in ("==", "!="):
        return _equal(left, right) == (sign == "==")
    both_text = isinstance(left, str) and isinstance(right, str)
    if not both_text and not (_is_number(left) and _is_number(right)):
        raise ManifestError(
            f"`{sign}` compares neither two numbers nor two texts here",
            remedy="Compare two values of one type, or use == and !=.",
            code="expression-type",
        )
    if sign in ("<", ">="):
        return bool(left < right) == (sign == "<")
    return bool(left > right) == (sign == ">")


def _equal(left: Any, right: Any) -> bool:
    """Equality of JSON values: True is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)


def _look_up(reference: Reference, scope: Mapping[str, Any]) -> Any:
    value: Any = scope
    for depth, part in enumerate(reference.path):
        if value is None and depth > 1:
            return None  # what a skipped step would have made
        if (isinstance(value, Mapping) and part in value) or _is_index(value, part):
            value = value[part]
        else:
            raise _unknown(reference, depth, value)
    return value


def _unknown(reference: Reference, depth: int, value: Any) -> ManifestError:
    inner = (
        f": there is no `{reference.path[depth]}` in `{Reference(reference.path[:depth])}`" if depth else ""
    )
    known = list(map(str, value))[:8] if isinstance(value, Mapping) else []
    return ManifestError(
        f"`{reference}` does not exist here{inner}",
        remedy=f"Known here: {', '.join(known)}." if known else "Look at what the step before it makes.",
        code="expression-unknown",
    )


def _is_index(value: Any, part: str | int) -> bool:
    return (
        isinstance(part, int)
        and isinstance(value, Sequence)
        and not isinstance(value, str)
        and 0 <= part < len(value)
    )


def _refused(text: str, why: str) -> ManifestError:
    shown = shorten(text.strip(), width=60, placeholder=" ...") or text.strip()[:60]
    return ManifestError(
        f"the expression `{shown}` cannot be read: {why}",
        remedy="Write it as ${{ params.name }}, ${{ steps.id.output.path }}, ${{ git.sha }} "
        "or ${{ run.id }}; texts stand in single quotes.",
        code="expression",
    )


class _Parser:
    """Recursive descent over the tokens of one expression; `depth` bounds the recursion."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tuple(self._split())
        self.at = 0
        self.depth = 0

    def _split(self) -> Iterator[tuple[str, str]]:
        position, end = 0, len(self.text.rstrip())
        after_dot = False
        while position < end:
            # After a dot a name may begin with a digit, as step ids may.
            part = _PART.match(self.text, position) if after_dot else None
            if part:
                yield "name", part.group()
                position, after_dot = part.end(), False
                continue
            match = _TOKEN.match(self.text, position)
            if match is None:
                raise _refused(self.text, f"`{self.text[position:].strip()[:1]}` has no meaning here")
            kind = str(match.lastgroup)
            yield kind, match.group(kind)
            position, after_dot = match.end(), match.group(kind) == "."

    def parse(self) -> Expression:
        if not self.tokens:
            raise _refused(self.text, "it is empty")
        tree = self._chain("||")
        if self.at < len(self.tokens):
            raise _refused(self.text, f"`{self.tokens[self.at][1]}` is one too many")
        return tree

    def _chain(self, sign: str) -> Expression:
        left = self._chain("&&") if sign == "||" else self._comparison()
        while self._take(sign):
            right = self._chain("&&") if sign == "||" else self._comparison()
            left = Operation(sign, (left, right))
        return left

    def _comparison(self) -> Expression:
        left = self._unary()
        if self._peek()[0] == "mark" and self._peek()[1] in _COMPARISONS:
            sign = self._next()[1]
            return Operation(sign, (left, self._unary()))
        return left

    def _unary(self) -> Expression:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _refused(self.text, f"it is nested deeper than {MAX_DEPTH}")
        kind, text = self._next()
        if (kind, text) == ("mark", "!"):
            tree: Expression = Operation("!", (self._unary(),))
        elif (kind, text) == ("mark", "("):
            tree = self._chain("||")
            self._expect(")")
        elif kind == "text":
            tree = Literal(text[1:-1].replace("''", "'"))
        elif kind == "number":
            tree = Literal(json.loads(text))
        elif kind == "name":
            tree = Literal(_CONSTANTS[text]) if text in _CONSTANTS else self._reference(text)
        else:
            why = f"`{text}` stands where a value is wanted" if text else "it ends too early"
            raise _refused(self.text, why)
        self.depth -= 1
        return tree

    def _reference(self, root: str) -> Reference:
        path: list[str | int] = [root]
        while True:
            if self._take("."):
                kind, text = self._next()
                if kind != "name":
                    raise _refused(self.text, "a name is missing after the dot")
                path.append(text)
            elif self._take("["):
                kind, text = self._next()
                if kind == "number" and text.isdecimal():
                    path.append(int(text))
                elif kind == "text":
                    path.append(text[1:-1].replace("''", "'"))
                else:
                    raise _refused(self.text, "in brackets stands a whole number or a quoted name")
                self._expect("]")
            else:
                return Reference(tuple(path))

    def _peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("", "")

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self.at += 1
        return token

    def _take(self, mark: str) -> bool:
        if self._peek() == ("mark", mark):
            self.at += 1
            return True
        return False

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise _refused(self.text, f"`{mark}` is missing")
