"""Usage events: what was consumed, by whom, and what it cost."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

UsageKind = Literal["llm", "compute", "memory", "network", "storage"]
UsagePhase = Literal["intent", "settled"]


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """One line of the spool. `cost_nano` is 10^-9 USD; None means the price is unknown, never zero.

    An `intent` is written before a model call with the reserved cost; the `settled` event with the
    same `event_id` replaces it. An intent never settled counts at its reserved cost.
    `occurred_at` is RFC 3339 UTC with microseconds: when the work began. A settlement keeps the time
    of its intent, so an event never moves from one day to another.
    """

    event_id: str
    phase: UsagePhase
    tenant: str
    run_id: str
    flow: str
    step: str
    iteration: int
    attempt: int
    kind: UsageKind
    provider: str
    model: str
    env: str
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    cpu_ms: int
    bytes_in: int
    bytes_out: int
    wall_ms: int
    cost_nano: int | None
    price: str  # which dated rate or price list said so
    outcome: str  # ok, failed, cancelled
    occurred_at: str
    estimated: bool = False  # the tokens were counted here because the provider sent no usage
    project: str = "default"
    retention_tier: str = "standard-365d"  # of the flow: how long this row is kept
    subject: str = ""  # surrogate of the person who asked for the run; who that is stands elsewhere
    tokens_cache_write: int = 0  # contained in tokens_in, as tokens_cached is
    tokens_reasoning: int = 0  # contained in tokens_out
    memory_kb_ms: int = 0  # 1000 bytes held for a millisecond
    # The parts of a model call's cost by kind of token; they add up to cost_nano. None: no such part.
    nano_in: int | None = None
    nano_out: int | None = None
    nano_cached: int | None = None
    nano_cache_write: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines of one source. `data` has those of the day that was asked for, each with its newline.

    `others`: days of its other lines (all days, when none was asked for). `end`: how many bytes of the
    source have been looked at, up to its last whole line.
    """

    run_id: str
    source: str
    data: bytes
    lines: int
    others: frozenset[str]
    end: int


class UsageWriter(Protocol):
    """Appends the usage of one run."""

    def append(self, events: Sequence[UsageEvent], *, durable: bool = True) -> None:
        """Writes all or none; what was acknowledged survives a crash. Raises CostError."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class LineageFile(Protocol):
    """What was written about a run's lineage: a `Path`, or what is like one."""

    @property
    def name(self) -> str: ...

    def read_bytes(self) -> bytes:
        """Raises FileNotFoundError where it has been compacted meanwhile."""

    def unlink(self, missing_ok: bool = False) -> None: ...


class LineageSpool(Protocol):
    """Where the lineage of ended runs waits to be compacted."""

    def write(self, run_id: str, data: bytes) -> LineageFile:
        """Appends; durable when it returns. What was written already is not written twice."""

    def file(self, run_id: str) -> LineageFile: ...

    def files(self) -> tuple[tuple[str, LineageFile], ...]:
        """(run_id, file) of every run, by name."""


LineagePlace = Path | LineageSpool  # a folder, or what is like one


class UsageSpool(Protocol):
    """Where events wait until a compactor has published their day. A source is a file, or what is like one:
    it has one run and one writer.
    """

    @property
    def lineage(self) -> LineagePlace:
        """Where the lineage of the same runs is."""

    def open_run(self, run_id: str) -> UsageWriter: ...

    def runs(self) -> tuple[str, ...]:
        """Runs that still have events here."""

    def read_run(self, run_id: str) -> list[UsageEvent]:
        """Each event once: the first settlement, else the first intent."""

    def days(self) -> tuple[str, ...]:
        """Days that there are events of, ascending."""

    def chunks(self, day: str | None = None, sources: Collection[str] | None = None) -> Iterator[Chunk]:
        """Every line of a day (None: all), in the order in which duplicates are decided.

        A chunk may have 0 lines: its source has nothing of the day (`others` says of which), or nothing.
        """

    def read_source(self, source: str) -> Iterator[UsageEvent]:
        """Each event, checked one by one. Raises CostError (`spool-corrupt`) with the line."""

    def remove(self, source: str, end: int) -> bool:
        """Removes a source that nobody writes any more and that has nothing after `end`."""
