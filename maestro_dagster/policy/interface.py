"""Verdicts: what the packs said of a flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Violation:
    """`rule` is stable (`pii-retention`); `step` is empty for a rule about the whole flow; `path` is a
    JSON Pointer into the flow's normal form.
    """

    rule: str
    pack: str
    step: str
    path: str
    message: str
    remedy: str

    def to_json(self) -> dict[str, str]:
        return {
            "rule": self.rule,
            "pack": self.pack,
            "step": self.step,
            "path": self.path,
            "message": self.message,
            "remedy": self.remedy,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """One pack's answer. Allowed only when the pack said `allow == true` and no violation."""

    pack: str
    digest: str  # sha256 over the pack's files
    allow: bool
    violations: tuple[Violation, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "pack": self.pack,
            "digest": self.digest,
            "allow": self.allow,
            "violations": [violation.to_json() for violation in self.violations],
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """All packs together. No pack at all is a denial."""

    allow: bool
    verdicts: tuple[Verdict, ...]
    engine: str  # name and version
    input_digest: str

    @property
    def violations(self) -> tuple[Violation, ...]:
        return tuple(violation for verdict in self.verdicts for violation in verdict.violations)

    def to_json(self) -> dict[str, Any]:
        return {
            "allow": self.allow,
            "engine": self.engine,
            "input_digest": self.input_digest,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
        }


class PolicyEngine(Protocol):
    def evaluate(self, document: Mapping[str, Any]) -> Decision:
        """Never raises for a pack's fault: a pack that cannot be loaded or evaluated denies and says why."""

    def close(self) -> None: ...
