"""One query against modules, in the child process and behind the allow-list: for consoles and tests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from maestro_dagster.errors import PolicyError
from maestro_dagster.policy.child import RegoChild

_CODES = {
    "language": ("policy-language-refused", "give it to a real OPA"),
    "load": ("policy-load-failed", "mend the module"),
    "evaluate": ("policy-evaluation-failed", "mend the rule"),
    "unloaded": ("policy-load-failed", "try again"),
}


def run_query(
    child: RegoChild,
    modules: Sequence[tuple[str, str]],
    query: str,
    *,
    data: Mapping[str, Any] | None = None,
    document: Any = None,
) -> list[dict[str, Any]]:
    """The bindings of each answer; empty when undefined.

    Raises PolicyError `policy-language-refused` when something is outside the allow-list,
    `policy-load-failed`, `policy-evaluation-failed`, and what `RegoChild.ask` raises.

    Args:
        child: the process that evaluates; it keeps what it has loaded.
        modules: (file name, Rego v1) of each.
        query: such as `data.maestro.pii.violation = x`.
        data: what `data` holds beside the modules.
        document: `input`; undefined when None.

    """
    key = hashlib.sha256(json.dumps([modules, data, query]).encode()).hexdigest()
    answer = child.ask(
        {"op": "load", "key": key, "modules": modules, "data": data, "query": query, "checked": True}
    )
    if "error" not in answer:
        text = None if document is None else json.dumps(document, allow_nan=False)
        answer = child.ask({"op": "query", "key": key, "input": text, "query": query})
    if "error" in answer:
        code, remedy = _CODES[answer["error"]["kind"]]
        raise PolicyError(answer["error"]["message"], remedy=remedy, code=code)
    return [dict(item.get("bindings", {})) for item in answer["result"]]
