"""What the usage must add up to, and what each of its forms does: all in whole nano-USD."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costs_plan import Plan, last_said, make_bulk, plan_live

if TYPE_CHECKING:
    import polars as pl

    from maestro_dagster.costs.lake import Lake

Sums = dict[tuple[str, str], int]  # by provider and model of a call; ("", "") is everything else


@dataclass
class DayProof:
    """Of a day: events and those without a price, and nano-USD by model in every form."""

    day: str
    events: int
    unknown: int
    unacknowledged: int
    wanted: Sums
    forms: dict[str, Sums] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)  # form -> (events, without a price)

    @property
    def nano(self) -> int:
        return sum(self.wanted.values())


def prove_day(
    plan: Plan, lake: Lake, day: str, live: dict[str, tuple[str, ...]], forms: tuple[str, ...]
) -> DayProof:
    """Holds the lake against what was written, then every other form against that."""
    import polars as pl

    from maestro_dagster.costs.frame import frame_of

    table = lake.usage.read_day(day)
    assert table is not None, f"{day} is lost"
    found = frame_of(table).select("event_id", "phase", "kind", "provider", "model", "cost_nano", "tenant")
    assert found["event_id"].n_unique() == found.height, f"{day}: an event is there twice"
    attempted, acknowledged, last = list_live(plan, day, live)
    bulk = make_bulk(plan, day)
    wanted = pl.concat([bulk.select("event_id", "phase", "cost_nano"), attempted])
    unasked = found.join(wanted, on="event_id", how="anti")
    assert not unasked.height, f"{day}: nobody wrote {unasked.head(3)}"
    must = pl.concat([bulk.select("event_id"), acknowledged])
    lost = must.join(found, on="event_id", how="anti")
    assert not lost.height, f"{day}: {lost.height} acknowledged events are lost: {lost.head(3)}"
    extra = found.join(must, on="event_id", how="anti")
    assert extra.join(last, on="event_id", how="anti").is_empty(), f"{day}: more than a batch was not said"
    # What stands for the day is what was written of these events, not what the lake says of them.
    truth = found.select("event_id", "kind", "provider", "model").join(
        wanted, on="event_id", how="inner", maintain_order="left"
    )
    proof = DayProof(day, truth.height, truth["cost_nano"].null_count(), extra.height, sum_models(truth))
    proof.forms["raw"] = sum_models(found)
    proof.counts["raw"] = (found.height, found["cost_nano"].null_count())
    _add_cubes(proof, lake)
    _add_exports(proof, lake, plan.root, forms)
    return proof


def list_live(
    plan: Plan, day: str, live: dict[str, tuple[str, ...]]
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Of the day: what live writers tried; ids that were acknowledged; ids of the batch after that."""
    import polars as pl

    tried: list[tuple[str, str, int | None]] = []
    said: list[str] = []
    last: list[str] = []
    for run_id, days in live.items():
        if day in days:
            end = last_said(plan, run_id)
            for number, batch in enumerate(plan_live(plan, run_id, days)):
                if number > end + 1:
                    break
                mine = [event for event in batch if event.occurred_at.startswith(day)]
                tried += [(event.event_id, event.phase, event.cost_nano) for event in mine]
                (said if number <= end else last).extend(event.event_id for event in mine)
    schema = {"event_id": pl.String, "phase": pl.String, "cost_nano": pl.Int64}
    attempted = pl.DataFrame(tried, schema=schema, orient="row").unique("event_id")
    ids = (pl.DataFrame({"event_id": names}, schema={"event_id": pl.String}) for names in (said, last))
    acknowledged, unsaid = (frame.unique() for frame in ids)
    return attempted, acknowledged, unsaid


def sum_models(frame: pl.DataFrame) -> Sums:
    import polars as pl

    call = pl.col("kind") == "llm"
    rows = frame.group_by(
        pl.when(call).then("provider").otherwise(pl.lit("")).alias("provider"),
        pl.when(call).then("model").otherwise(pl.lit("")).alias("model"),
    ).agg(pl.col("cost_nano").cast(pl.Int128).sum())
    return {(provider, model): int(nano) for provider, model, nano in rows.iter_rows() if nano}


def _add_cubes(proof: DayProof, lake: Lake) -> None:
    from maestro_dagster.costs.cube import CUBES

    for name in CUBES:
        table = lake.table(name).read_day(proof.day)
        assert table is not None, f"{name} lacks {proof.day}"
        rows = table.to_pylist()
        proof.counts[name] = (sum(row["events"] for row in rows), sum(row["unknown"] for row in rows))
        sums: Counter[tuple[str, str]] = Counter()
        for row in rows:
            by = (row["provider"], row["model"]) if "model" in row and row["kind"] == "llm" else ("", "")
            sums[by] += int((row["cost_usd"] or 0) * 10**9)
        proof.forms[name] = _plain(sums)


def _add_exports(proof: DayProof, lake: Lake, folder: Path, forms: tuple[str, ...]) -> None:
    from maestro_dagster.costs.export import export_usage
    from maestro_dagster.costs.usage_day import list_usage_days

    for form in forms:
        target = folder / f"{proof.day}.{form}"
        days = list_usage_days(lake, since=proof.day, until=proof.day)
        statement = export_usage(days, target, form, since=proof.day, until=proof.day)
        proof.forms[form], rows = _read_export(target, form)
        assert sum(proof.forms[form].values()) == statement.sum_nano
        assert rows == statement.rows
        proof.counts[form] = (statement.events, statement.unknown)
        target.unlink()


def _read_export(path: Path, form: str) -> tuple[Sums, int]:
    """Nano-USD by model as another tool reads it, and how many rows there are."""
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    focus = form.startswith("focus")
    names = ["ServiceCategory", "SkuId", "BilledCost"] if focus else ["kind", "provider", "model", "cost_usd"]
    types = dict.fromkeys(names, pa.string()) | {names[-1]: pa.decimal128(38, 9)}
    if form in ("csv", "focus-csv"):
        options = pc.ConvertOptions(include_columns=names, column_types=types, null_values=[""])
        table = pc.read_csv(path, convert_options=options)
    else:
        table = pq.read_table(path, columns=names)
    table = table.set_column(len(names) - 1, names[-1], table.column(names[-1]).cast(pa.decimal128(38, 9)))
    sums: Counter[tuple[str, str]] = Counter()
    for row in table.group_by(names[:-1]).aggregate([(names[-1], "sum")]).to_pylist():
        sums[_model_of(row, focus=focus)] += int((row[f"{names[-1]}_sum"] or 0) * 10**9)
    return _plain(sums), table.num_rows


def _model_of(row: dict[str, Any], *, focus: bool) -> tuple[str, str]:
    if focus:
        if row["ServiceCategory"] != "AI and Machine Learning":
            return "", ""
        provider, _, model = row["SkuId"].partition("/")
        return provider, model
    return (row["provider"], row["model"]) if row["kind"] == "llm" else ("", "")


def _plain(sums: Counter[tuple[str, str]]) -> Sums:
    return {name: nano for name, nano in sums.items() if nano}
