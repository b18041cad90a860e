"""JUnit reports of foreign code, read with care: no entities, bounded size, bounded texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from maestro_dagster.errors import StepError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MOST_BYTES = 32 * 1024**2


@dataclass(frozen=True, slots=True)
class TestReport:
    """Counts, seconds, and the first thing that went wrong: (test, message)."""

    __test__ = False  # its name means something to pytest

    tests: int
    failures: int
    errors: int
    skipped: int
    seconds: float
    first_problem: tuple[str, str] | None


def read_junit(data: bytes, place: str) -> TestReport:
    """Raises StepError (`junit-invalid`)."""
    from xml.etree import ElementTree as ET

    if len(data) > MOST_BYTES:
        raise _invalid("is too large", place)
    # A report needs no document type; with one, entities could grow without bound or name files.
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"\0" in data[:200]:
        raise _invalid("declares a document type", place)
    try:
        root = ET.fromstring(data)  # noqa: S314  entities are refused above
    except (ET.ParseError, ValueError) as error:
        raise _invalid(f"is no XML: {error}", place) from error
    suites = [root] if root.tag == "testsuite" else root.findall("testsuite")
    cases = [case for suite in suites for case in suite.iter("testcase")]
    failed = [case for case in cases if case.find("failure") is not None]
    broken = [case for case in cases if case.find("error") is not None]
    return TestReport(
        tests=len(cases),
        failures=len(failed),
        errors=len(broken),
        skipped=sum(1 for case in cases if case.find("skipped") is not None),
        seconds=round(sum(_seconds(suite.get("time")) for suite in suites), 3),
        first_problem=_describe((failed + broken)[0]) if failed or broken else None,
    )


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, min(float(text or 0), 1e6))
    except ValueError:
        return 0.0


def _describe(case: Element) -> tuple[str, str]:
    problem = case.find("failure")
    problem = problem if problem is not None else case.find("error")
    message = text = ""
    if problem is not None:
        message, text = problem.get("message") or "", problem.text or ""
    # Of a module that cannot be imported, only the text tells why.
    reasons = [line[1:] for line in text.splitlines() if line.startswith("E ")]
    if reasons and reasons[-1].strip() not in message:
        message = f"{message}: {reasons[-1]}"
    name = "::".join(part for part in (case.get("classname"), case.get("name")) if part)
    return name[:300], " ".join(message.split())[:500]


def _invalid(fact: str, place: str) -> StepError:
    return StepError(
        f"the test report {fact}",
        place=place,
        remedy="read the step's log: the tests ended before they wrote a report, or wrote over it",
        code="junit-invalid",
    )
