"""Days, months and quarters in UTC: what a budget is for, and when it renews."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Period:
    """`label` is `2026-11-03`, `2026-11` or `2026-Q4`; it ends before `until` (YYYY-MM-DD)."""

    name: str  # day, month or quarter
    label: str
    since: str
    until: str


def spell_day(day: str) -> str:
    """YYYY-MM-DD in words that nobody can take for another date."""
    found = date.fromisoformat(day)
    return f"{found.day} {_MONTHS[found.month - 1]} {found.year}"


@lru_cache(maxsize=64)
def periods_of(day: str) -> tuple[Period, Period, Period]:
    """The day (YYYY-MM-DD), its month and its quarter."""
    found = date.fromisoformat(day)
    quarter = (found.month - 1) // 3
    month, first = found.replace(day=1), date(found.year, 3 * quarter + 1, 1)
    return (
        Period("day", day, day, (found + timedelta(days=1)).isoformat()),
        Period("month", day[:7], month.isoformat(), _add_months(month, 1).isoformat()),
        Period(
            "quarter", f"{found.year}-Q{quarter + 1}", first.isoformat(), _add_months(first, 3).isoformat()
        ),
    )


def _add_months(first: date, months: int) -> date:
    count = first.month - 1 + months
    return date(first.year + count // 12, count % 12 + 1, 1)
