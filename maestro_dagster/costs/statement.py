"""What an export says of itself: its period, its figures, what it was made from, what it leaves out.

The same usage gives the same statement: neither the time of the export nor a folder stands in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from maestro_dagster.errors import CostError, ManifestError
from maestro_dagster.manifest.money import format_nano, parse_usd

PREDICATE_TYPE: Final = "urn:maestro:cost-export:v1"
FORMATS: Final = {  # format -> suffix of its files
    "csv": ".csv",
    "parquet": ".parquet",
    "focus": ".parquet",
    "focus-csv": ".csv",
}
_FIELDS: Final = frozenset(
    {"file", "format", "period", "rows", "events", "sum_usd", "events_without_price", "left_out", "charges",
     "size", "digest", "sources"}
)  # fmt: skip
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ExportSource:
    """A day of usage: the digest of its published file (None: nothing published), rows only in the spool."""

    day: str
    digest: str | None
    fresh_rows: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"day": self.day, "digest": self.digest, "fresh_rows": self.fresh_rows}


@dataclass(frozen=True, slots=True)
class ExportStatement:
    """Figures of one exported file.

    `rows` are those of the file, `events` the usage events that it tells of; `sum_nano` adds the events that
    have a price and the charges, `unknown` counts the other events. `left_out`: what events without a price
    used (units of the lake's columns) where the format has no place for them. `since` and `until` are the
    days asked for. `charge_rows` and `charge_nano` are the part of the file that no usage stands for.
    """

    file: str
    format: str
    since: str | None
    until: str | None
    rows: int
    events: int
    sum_nano: int
    unknown: int
    size: int
    digest: str
    sources: tuple[ExportSource, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    charge_rows: int = 0
    charge_nano: int = 0

    @property
    def left_out_of_file(self) -> bool:
        """Whether events without a price are no rows of the file: FOCUS allows no cost to be missing."""
        return self.format.startswith("focus")

    @property
    def first_day(self) -> str | None:
        """Of what stands in the file: shared costs are for all of the period that was asked for."""
        return (self.since if self.charge_rows else None) or (self.sources[0].day if self.sources else None)

    @property
    def last_day(self) -> str | None:
        return (self.until if self.charge_rows else None) or (self.sources[-1].day if self.sources else None)

    def to_json(self) -> dict[str, Any]:
        """The predicate of the signed statement. Money is decimal USD as text."""
        return {
            "file": self.file,
            "format": self.format,
            "period": {
                "since": self.since,
                "until": self.until,
                "first_day": self.first_day,
                "last_day": self.last_day,
            },
            "rows": self.rows,
            "events": self.events,
            "sum_usd": format_nano(self.sum_nano),
            "events_without_price": self.unknown,
            "left_out": {name: str(value) for name, value in self.left_out.items()},  # may pass 2^53
            "charges": {"rows": self.charge_rows, "sum_usd": format_nano(self.charge_nano)},
            "size": self.size,
            "digest": self.digest,
            "sources": [source.to_json() for source in self.sources],
        }


def read_statement(predicate: Mapping[str, Any]) -> ExportStatement:
    """The inverse of `to_json`. Raises CostError (`statement-invalid`) for anything else."""
    try:
        statement = ExportStatement(
            file=predicate["file"],
            format=predicate["format"],
            since=predicate["period"]["since"],
            until=predicate["period"]["until"],
            rows=predicate["rows"],
            events=predicate["events"],
            sum_nano=_read_money(predicate["sum_usd"]),
            unknown=predicate["events_without_price"],
            size=predicate["size"],
            digest=predicate["digest"],
            sources=tuple(
                ExportSource(source["day"], source["digest"], source["fresh_rows"])
                for source in predicate["sources"]
            ),
            charge_rows=predicate["charges"]["rows"],
            charge_nano=_read_money(predicate["charges"]["sum_usd"]),
            left_out={name: int(value) for name, value in predicate["left_out"].items()},
        )
        counts = (statement.rows, statement.events, statement.unknown, statement.size, statement.charge_rows)
        whole = (
            set(predicate) == _FIELDS
            and statement.to_json() == predicate
            and statement.format in FORMATS
            and _DIGEST.fullmatch(statement.digest) is not None
            and all(type(count) is int and count >= 0 for count in counts)
        )
    except (KeyError, TypeError, ValueError, AttributeError, ManifestError) as error:
        raise _invalid() from error
    if not whole:
        raise _invalid()
    return statement


def _read_money(text: str) -> int:
    return -parse_usd(text[1:]) if text.startswith("-") else parse_usd(text)


def _invalid() -> CostError:
    return CostError("the statement is none of a cost export", code="statement-invalid")
