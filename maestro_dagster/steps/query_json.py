"""The query behind `json/query`; runs in a child process unless the expression is plainly simple."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from maestro_dagster.errors import StepError
from maestro_dagster.steps.input import parse_json

# Each of these can repeat the whole value, so that a chain of them grows exponentially.
_GROWING = frozenset({"multi_select_list", "multi_select_dict", "flatten", "function_expression", "expref"})
_SIMPLE_GROWING = 3


def is_simple(query: str, place: str) -> bool:
    """Whether the answer cannot be much larger than the data. Raises StepError (`query-syntax`)."""
    return sum(node["type"] in _GROWING for node in _nodes(_compile(query, place).parsed)) <= _SIMPLE_GROWING


def query_json(options: Mapping[str, Any], data: bytes) -> bytes:
    """The answer as JSON with sorted keys. Raises StepError (`query-*`, `input-not-json`)."""
    from jmespath.exceptions import JMESPathError

    place, limit = options["place"], options["max_bytes"]
    expression = _compile(options["query"], place)
    value = parse_json(data, place)
    try:
        answer = expression.search(value)
    except (JMESPathError, TypeError, ValueError, OverflowError) as error:
        raise StepError(
            f"the query fails on this input: {' '.join(str(error).split())}",
            place=place,
            remedy="correct the query",
            code="query-failed",
        ) from error
    made = bytearray()
    for part in json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).iterencode(
        answer
    ):
        made += part.encode()
        if len(made) > limit:
            raise StepError(
                f"the answer is longer than {limit} bytes",
                place=place,
                remedy="ask for less, or raise max_bytes",
                code="query-too-large",
            )
    return bytes(made)


def _compile(query: str, place: str) -> Any:
    import jmespath
    from jmespath.exceptions import JMESPathError

    try:
        return jmespath.compile(query)
    except (JMESPathError, RecursionError) as error:
        raise StepError(
            f"the query is wrong: {' '.join(str(error).split())}",
            place=place,
            remedy="correct the JMESPath expression",
            code="query-syntax",
        ) from error


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [child for child in node.get("children", []) if isinstance(child, dict)]
