"""Days that cost far more or less than the days before them led to expect, and what made them so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median_low
from typing import Any, Final

from maestro_dagster.costs.anomaly_score import THRESHOLD, score_days
from maestro_dagster.costs.forecast_method import WEEK
from maestro_dagster.manifest.money import NANO, format_nano

LEAST_NANO: Final = NANO // 100  # a cent: less than this is nobody's anomaly
_WEEKS_BEFORE: Final = 4


@dataclass(frozen=True, slots=True)
class Cause:
    """One name of a dimension (`model`, `flow`, `tenant`) on an anomalous day, nano-USD.

    `expected_nano` is the median of the same weekday in the four weeks before; 0 for what is new.
    """

    dimension: str
    name: str
    nano: int
    expected_nano: int

    @property
    def more_nano(self) -> int:
        return self.nano - self.expected_nano

    def to_json(self) -> dict[str, Any]:
        return {
            "dimension": self.dimension,
            "name": self.name,
            "usd": format_nano(self.nano),
            "expected_usd": format_nano(self.expected_nano),
            "more_usd": format_nano(self.more_nano),
        }


@dataclass(frozen=True, slots=True)
class Anomaly:
    """`name` says which series; `score` is in deviations, below 0 when the day was too cheap."""

    name: str
    day: str
    nano: int
    expected_nano: int
    score: float

    @property
    def more_nano(self) -> int:
        return self.nano - self.expected_nano

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "day": self.day,
            "usd": format_nano(self.nano),
            "expected_usd": format_nano(self.expected_nano),
            "more_usd": format_nano(self.more_nano),
            "score": round(self.score, 1),
        }


def find_anomalies(
    series: Mapping[str, Sequence[tuple[str, int]]],
    *,
    since: str = "",
    threshold: float = THRESHOLD,
    least_nano: int = LEAST_NANO,
) -> tuple[Anomaly, ...]:
    """Anomalous days of many series, the earliest first, each judged from the days before it alone.

    Args:
        series: name -> (day, nano-USD) of complete days, ascending without gaps (`fill_days`). Four weeks
            from the first that cost something are needed before a day is judged.
        since: days before this one only teach.
        threshold: score from which on a day is anomalous.
        least_nano: a difference from what was expected that is too small to matter.

    """
    found = [
        anomaly
        for name, rows, expected, scores in _score_series(series, threshold)
        for anomaly in _list_anomalies(name, rows, expected, scores, threshold)
        if anomaly.day >= since and abs(anomaly.more_nano) >= least_nano
    ]
    return tuple(sorted(found, key=lambda anomaly: (anomaly.day, -abs(anomaly.more_nano), anomaly.name)))


def explain_day(
    day: str, parts: Mapping[str, Mapping[str, Mapping[str, int]]], *, most: int = 5
) -> tuple[Cause, ...]:
    """What made a day strange: of each dimension the `most` names whose cost changed most.

    `parts` is dimension -> name -> day -> nano-USD; an absent day cost nothing.
    """
    before = [_days_before(day, WEEK * back) for back in range(1, _WEEKS_BEFORE + 1)]
    causes: list[Cause] = []
    for dimension, names in parts.items():
        rows = [
            Cause(dimension, name, sums.get(day, 0), median_low(sums.get(there, 0) for there in before))
            for name, sums in names.items()
        ]
        changed = [row for row in rows if row.more_nano]
        causes += sorted(changed, key=lambda row: (-abs(row.more_nano), row.name))[:most]
    return tuple(causes)


def _score_series(
    series: Mapping[str, Sequence[tuple[str, int]]], threshold: float
) -> Iterator[tuple[str, Sequence[tuple[str, int]], Sequence[float], Sequence[float]]]:
    """Series that begin and end on the same days are judged together, which costs little more than one."""
    import numpy as np

    alike: dict[tuple[str, int], list[tuple[str, Sequence[tuple[str, int]]]]] = {}
    for name, rows in series.items():
        begin = next((at for at, (_, nano) in enumerate(rows) if nano > 0), None)
        if begin is not None:
            used = rows[begin:]
            alike.setdefault((used[0][0], len(used)), []).append((name, used))
    for (first, _), members in alike.items():
        costs = np.array([[nano for _, nano in rows] for _, rows in members], dtype=np.float64)
        scores = score_days(costs, date.fromisoformat(first).weekday(), threshold)
        for at, (name, rows) in enumerate(members):
            yield name, rows, scores.expected[at].tolist(), scores.score[at].tolist()


def _list_anomalies(
    name: str,
    rows: Sequence[tuple[str, int]],
    expected: Sequence[float],
    scores: Sequence[float],
    threshold: float,
) -> Iterator[Anomaly]:
    for (day, nano), hoped, score in zip(rows, expected, scores, strict=True):
        if abs(score) > threshold:  # never true of NaN, which is a day not judged
            yield Anomaly(name, day, nano, round(hoped), score)


def _days_before(day: str, count: int) -> str:
    return date.fromordinal(date.fromisoformat(day).toordinal() - count).isoformat()
