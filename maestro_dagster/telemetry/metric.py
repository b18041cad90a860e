"""Figures for Prometheus, added up from the durable records whenever somebody asks.

No process counts anything for the others: each that serves `/metrics` reads the journal, the inbox and the
budgets, so figures survive restarts and are the same whoever is asked. What is asked of the server itself
is the exception (`RequestTimes`).
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from maestro_dagster.errors import MaestroError
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.name import METRICS, Metric

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

_LONGEST_LABEL = 200  # characters
_MOST_SERIES = 2_000  # of one metric: what an attacker could choose must not fill the memory of Prometheus
OTHER = "(other)"


@dataclass(slots=True)
class Histogram:
    """How many fell into each bucket; the last is that beyond all bounds."""

    counts: list[float]
    total: float = 0.0


@dataclass(slots=True)
class Sheet:
    """The figures of one scrape."""

    values: dict[Metric, dict[tuple[str, ...], float]] = field(default_factory=dict)
    histograms: dict[Metric, dict[tuple[str, ...], Histogram]] = field(default_factory=dict)

    def add(self, metric: Metric, amount: float, *labels: str) -> None:
        """Adds to a counter or gauge; the labels are in the metric's order."""
        series = self.values.setdefault(metric, {})
        key = _bound(series, labels)
        series[key] = series.get(key, 0.0) + amount

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """One more value of a histogram."""
        self._histogram(metric, labels).counts[bisect_left(metric.buckets, value)] += 1
        self._histogram(metric, labels).total += value

    def add_counts(self, metric: Metric, counts: Sequence[float], total: float, *labels: str) -> None:
        """A histogram that was made elsewhere, with the same buckets; others are left out."""
        found = self._histogram(metric, labels)
        if len(counts) == len(found.counts):
            found.counts = [mine + theirs for mine, theirs in zip(found.counts, counts, strict=True)]
            found.total += total

    def add_sheet(self, other: Sheet) -> None:
        for metric, series in other.values.items():
            for labels, amount in series.items():
                self.add(metric, amount, *labels)
        for metric, histograms in other.histograms.items():
            for labels, found in histograms.items():
                self.add_counts(metric, found.counts, found.total, *labels)

    def _histogram(self, metric: Metric, labels: tuple[str, ...]) -> Histogram:
        series = self.histograms.setdefault(metric, {})
        key = _bound(series, labels)
        if key not in series:
            series[key] = Histogram([0.0] * (len(metric.buckets) + 1))
        return series[key]


class MetricSource(Protocol):
    """One kind of records. `name` is what `maestro_source_up` calls it."""

    @property
    def name(self) -> str: ...

    def fill(self, sheet: Sheet) -> None:
        """Adds its figures. Raises MaestroError when the records cannot be read."""


def render_metrics(
    sources: Iterable[MetricSource], *, hide: Callable[[str], str] = str, info: Sequence[str] = ()
) -> bytes:
    """The text that Prometheus reads (version 0.0.4). Records that cannot be read leave the others readable.

    `info` are the labels of `maestro_info`; `hide` is what every label goes through.
    """
    sheet = Sheet()
    if info:
        sheet.add(name.INFO, 1, *info)
    for source in sources:
        part = Sheet()
        try:
            source.fill(part)
        except MaestroError:
            sheet.add(name.SOURCE_UP, 0, source.name)
        else:
            sheet.add_sheet(part)
            sheet.add(name.SOURCE_UP, 1, source.name)
    return write_sheet(sheet, hide)


def write_sheet(sheet: Sheet, hide: Callable[[str], str] = str) -> bytes:
    from prometheus_client.exposition import generate_latest

    return generate_latest(_Collected(sheet, hide))


class RequestTimes:
    """How long this process took to answer requests. Safe between threads."""

    name = "requests"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sheet = Sheet()

    def observe(self, method: str, route: str, code: int, seconds: float) -> None:
        """`route` is the pattern of the route, never the path that was asked for."""
        with self._lock:
            self._sheet.observe(name.HTTP_DURATION, seconds, method, route, str(code))

    def fill(self, sheet: Sheet) -> None:
        with self._lock:
            sheet.add_sheet(self._sheet)


@dataclass(frozen=True, slots=True)
class _Collected:
    """What the client library takes for a registry."""

    sheet: Sheet
    hide: Callable[[str], str]

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            if metric in self.sheet.histograms:
                yield self._histogram(metric)
            elif metric in self.sheet.values:
                yield self._plain(metric)

    def _plain(self, metric: Metric) -> Family:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family: Family = kind(metric.name, metric.help, labels=metric.labels)
        for labels, value in sorted(self.sheet.values[metric].items()):
            family.add_metric(self._labels(labels), value)  # type: ignore[attr-defined]
        return family

    def _histogram(self, metric: Metric) -> Family:
        from prometheus_client.metrics_core import HistogramMetricFamily

        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, found in sorted(self.sheet.histograms[metric].items(), key=lambda item: item[0]):
            buckets, below = [], 0.0
            for bound, count in zip((*map(_bound_text, metric.buckets), "+Inf"), found.counts, strict=True):
                below += count
                buckets.append((bound, below))
            family.add_metric(self._labels(labels), buckets, found.total)
        return family

    def _labels(self, labels: tuple[str, ...]) -> list[str]:
        return [self.hide(label)[:_LONGEST_LABEL] for label in labels]


def _bound(series: Collection[tuple[str, ...]], labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels, or `(other)` for each once there are too many series."""
    key = tuple(map(str, labels))
    return key if key in series or len(series) < _MOST_SERIES else (OTHER,) * len(key)


def _bound_text(bound: float) -> str:
    return f"{bound:g}" if bound < 1e6 else f"{bound:.0f}"  # noqa: PLR2004 - no exponents in labels
