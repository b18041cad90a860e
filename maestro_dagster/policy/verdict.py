"""From what a pack's rules say to a verdict. Whatever is not a clear yes is a no that says why.

A pack in the package `maestro.<pack>` defines

    allow      boolean; must be true
    violation  set of objects {rule, step, path, message, remedy}, or of strings; must be defined and empty
    warning    set of strings or objects with `message`, optional; shown, never denying
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maestro_dagster.policy.interface import Verdict, Violation
from maestro_dagster.policy.pack import Pack

RULES = ("allow", "violation", "warning")
_MAX_TEXT = 2000
_MAX_VIOLATIONS = 1000


def judge_pack(pack: Pack, values: list[Mapping[str, Any]]) -> Verdict:
    """The verdict from the values of RULES, each `{"value": ..}` or `{"undefined": True}`."""
    allow, violation, warning = values
    violations: list[Violation] = []
    if "value" not in violation:
        violations.append(
            _fault(pack, "pack-undefined", f"{pack.package}.violation is undefined", _define("violation"))
        )
    elif not isinstance(violation["value"], list):
        violations.append(
            _fault(pack, "pack-undefined", f"{pack.package}.violation is no set", _define("violation"))
        )
    else:
        violations += [_read_violation(pack, item) for item in violation["value"][:_MAX_VIOLATIONS]]
    if allow.get("value") is not True and not violations:
        said = "undefined" if "value" not in allow else "not true"
        violations.append(
            _fault(pack, "pack-not-allowed", f"{pack.package}.allow is {said}", _define("allow"))
        )
    warned = warning.get("value")
    return Verdict(
        pack=pack.name,
        digest=pack.digest,
        allow=not violations,
        violations=tuple(sorted(violations, key=lambda one: (one.step, one.rule, one.path, one.message))),
        warnings=tuple(sorted(_message(item) for item in warned)) if isinstance(warned, list) else (),
    )


def deny_pack(pack: Pack, rule: str, message: str, remedy: str) -> Verdict:
    """The verdict on a pack that could not be asked."""
    return Verdict(pack.name, pack.digest, allow=False, violations=(_fault(pack, rule, message, remedy),))


def deny_all(rule: str, message: str, remedy: str) -> Verdict:
    """The verdict when there is no pack to name."""
    return deny_pack(Pack(name="", digest=""), rule, message, remedy)


def _define(rule: str) -> str:
    shape = "default allow := false; allow if count(violation) == 0" if rule == "allow" else "a set"
    return f"define `{rule}` in the pack ({shape})"


def _fault(pack: Pack, rule: str, message: str, remedy: str) -> Violation:
    return Violation(
        rule=rule, pack=pack.name, step="", path="", message=message[:_MAX_TEXT], remedy=remedy[:_MAX_TEXT]
    )


def _read_violation(pack: Pack, item: Any) -> Violation:
    if not isinstance(item, Mapping):
        item = {"message": item}

    def text(key: str, default: str = "") -> str:
        value = item.get(key, default)
        return (value if isinstance(value, str) else str(value))[:_MAX_TEXT]

    return Violation(
        rule=text("rule", f"{pack.name}-violation"),
        pack=pack.name,
        step=text("step"),
        path=text("path"),
        message=text("message", text("msg", "the pack gives no message")),
        remedy=text("remedy"),
    )


def _message(item: Any) -> str:
    return str(item.get("message", item) if isinstance(item, Mapping) else item)[:_MAX_TEXT]
