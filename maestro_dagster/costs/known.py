"""What a day of usage may refer to and how large it may be: from the project, the lake and the operator.

The operator says in `resources/expectations.yaml`

    tenants: [acme]                  # may appear although no published day has them
    most_usd_per_event: "1000"
    volume: {block_factor: 10}       # rows beyond this multiple of what was forecast stop the day
    expectations:                    # as Great Expectations spells them; money columns are nano-USD
      - type: expect_column_distinct_values_to_be_in_set
        kwargs: {column: env, value_set: [dev, prod]}
        severity: warning
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from maestro_dagster.errors import CostError, ManifestError
from maestro_dagster.manifest.money import NANO, parse_usd

if TYPE_CHECKING:
    import pyarrow as pa

    from maestro_dagster.costs.lake import Lake

Severity = Literal["error", "warn"]
MOST_NANO: Final = 10_000 * NANO  # of one event
BLOCK_FACTOR: Final = 10
_HISTORY: Final = 90  # days that the forecast looks at
_TENANT_DAYS: Final = 30  # published days whose tenants are known


@dataclass(frozen=True, slots=True)
class ProjectRules:
    """`resources/expectations.yaml`, read."""

    tenants: tuple[str, ...] = ()
    most_nano: int = MOST_NANO
    block_factor: int = BLOCK_FACTOR
    expectations: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What a day may refer to. None: nobody knows, so it is not checked.

    `rows` is the interval that the forecast expects, (least, most); a day that is not over may have fewer.
    """

    tenants: Collection[str] | None = None
    flows: Collection[str] | None = None
    runs: Collection[str] | None = None
    rows: tuple[int, int] | None = None
    rules: ProjectRules = field(default_factory=ProjectRules)


def gather_known(
    lake: Lake,
    day: str,
    spooled: pa.Table,
    *,
    rules: ProjectRules,
    tenant: str,
    flows: Collection[str] | None,
    has_run: Callable[[str], bool],
    today: str,
) -> Known:
    """What may stand in the day: the project's tenant and those of published days, runs that somebody knows.

    `spooled` is what the day gets from the spool: only its runs are asked for. `today` is YYYY-MM-DD (UTC).
    """
    published = [name for name in lake.usage.days() if name != day]
    runs = set(_names(spooled, "run_id"))
    held = set(_names(lake.usage.read_day(day, ["run_id"]), "run_id")) if lake.usage.manifest(day) else set()
    tenants = {tenant, *_names(lake.usage.read_day(day, ["tenant"]), "tenant")}
    for name in published[-_TENANT_DAYS:]:
        cube = lake.table("cube_day_tenant").read_day(name, ["tenant"])
        tenants.update(_names(cube if cube is not None else lake.usage.read_day(name, ["tenant"]), "tenant"))
    past = [name for name in published if name < day][-_HISTORY:]
    manifests = [lake.usage.manifest(name) for name in past]
    history = [(one.day, one.rows + one.retired["rows"]) for one in manifests if one is not None]
    return Known(
        tenants=tenants,
        flows=flows,
        runs=held | {run for run in runs if has_run(run)},
        rows=forecast_rows(history, day, over=day < today),
        rules=rules,
    )


def forecast_rows(history: Sequence[tuple[str, int]], day: str, *, over: bool) -> tuple[int, int] | None:
    """How many rows the day should have, (least, most), from (day, rows) of days before it.

    None where there is too little history. A day that is not `over` may still have fewer.
    """
    from maestro_dagster.costs.forecast import LEAST_HISTORY, MOST_DAYS, fill_days, forecast_costs

    before = {name: rows for name, rows in history if name < day}
    if not before:
        return None
    filled = fill_days(before, min(before), max(before))
    ahead = (date.fromisoformat(day) - date.fromisoformat(filled[-1][0])).days
    if len(filled) < LEAST_HISTORY or ahead > MOST_DAYS:
        return None
    found = forecast_costs(filled, ahead, level=0.99)
    if not found.days:
        return None
    last = found.days[-1]
    return (last.low_nano if over else 0), last.high_nano


def load_project_rules(path: Path) -> ProjectRules:
    """The operator's file; defaults where there is none. Raises CostError (`expectations-invalid`)."""
    from maestro_dagster.manifest.plain_yaml import load_plain_yaml

    try:
        value = load_plain_yaml(path.read_bytes())
        return _read_rules(value if value is not None else {})
    except FileNotFoundError:
        return ProjectRules()
    except (OSError, ValueError, ManifestError) as error:
        raise CostError(
            f"the expectations of the project cannot be read: {error}",
            place=str(path),
            remedy="see the comments in the file; docs/how-to/keep-and-remove-usage.md has an example",
            code="expectations-invalid",
        ) from error


def _read_rules(value: Any) -> ProjectRules:
    if not isinstance(value, dict):
        raise ValueError("it is no mapping")  # noqa: TRY004 - caught above, with the file's name
    names = {"tenants", "most_usd_per_event", "volume", "expectations"}
    if unknown := sorted(set(value) - names):
        raise ValueError(f"there is no key {unknown[0]!r}; there are {', '.join(sorted(names))}")
    tenants = value.get("tenants") or []
    volume = value.get("volume") or {}
    added = value.get("expectations") or []
    if not isinstance(tenants, list) or not all(isinstance(name, str) for name in tenants):
        raise ValueError("`tenants` is no list of names")
    if not isinstance(volume, dict) or set(volume) - {"block_factor"}:
        raise ValueError("`volume` takes `block_factor` only")
    factor = volume.get("block_factor", BLOCK_FACTOR)
    if not isinstance(factor, int) or isinstance(factor, bool) or factor < 1:
        raise ValueError("`block_factor` is no whole number above 0")
    if not isinstance(added, list):
        raise ValueError("`expectations` is no list")  # noqa: TRY004 - as above
    most = value.get("most_usd_per_event")
    nano = MOST_NANO if most is None else parse_usd(str(most))
    return ProjectRules(tuple(tenants), nano, factor, tuple(_read_expectation(one) for one in added))


def _read_expectation(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) - {"type", "kwargs", "severity"}:
        raise ValueError("an expectation has `type`, `kwargs` and `severity`")
    kind, kwargs = value.get("type"), value.get("kwargs", {})
    if not isinstance(kind, str) or not re.fullmatch(r"expect_[a-z_]+", kind):
        raise ValueError(f"{kind!r} is no expectation; Great Expectations spells them expect_...")
    if not isinstance(kwargs, dict):
        raise ValueError(f"`kwargs` of {kind} is no mapping")  # noqa: TRY004 - as above
    severity = {"critical": "error", "warning": "warn"}.get(value.get("severity", "critical"))
    if severity is None:
        raise ValueError(f"the severity of {kind} is neither critical nor warning")
    return {"type": kind, "kwargs": kwargs, "severity": severity}


def _names(table: pa.Table | None, column: str) -> Sequence[str]:
    import pyarrow.compute as pc

    return () if table is None else pc.unique(table.column(column)).to_pylist()
