"""What is wrong with a manifest, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from maestro_dagster.errors import ManifestError

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, order=True)
class Diagnostic:
    """One finding. `line` and `column` count from 1; both are 0 when the file could not be read at all.

    `code` never changes once released; `message` and `remedy` are for people.
    """

    file: str
    line: int
    column: int
    code: str
    severity: Severity
    message: str
    remedy: str = ""

    def to_json(self) -> dict[str, str | int]:
        return asdict(self)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        text = f"{place}: {self.severity}[{self.code}]: {self.message}"
        return f"{text}; {self.remedy}" if self.remedy else text


def has_errors(diagnostics: Iterable[Diagnostic]) -> bool:
    return any(each.severity == "error" for each in diagnostics)


def refusal(diagnostics: tuple[Diagnostic, ...]) -> ManifestError:
    """The error to raise for a manifest with these findings; its text is the first error's."""
    errors = [each for each in diagnostics if each.severity == "error"]
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    place = f"{first.file}:{first.line}:{first.column}" if first.line else first.file
    error = ManifestError(first.message + more, place=place, remedy=first.remedy, code=first.code)
    error.diagnostics = diagnostics
    return error
