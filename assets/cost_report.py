"""Costs of the month so far, by model and by flow, and the last 30 days; `maestro cost report` tells more."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg

from maestro_dagster.costs.plot import draw_bars, draw_stack, embed_svg
from maestro_dagster.costs.plot_spark import embed_spark
from maestro_dagster.costs.question import Costs, Group, MonthToDate, answer, month_reach, month_to_date
from maestro_dagster.manifest.money import format_nano
from maestro_dagster.translate.resource import LakeResource

DAYS = 30


@dg.asset(
    deps=["usage_daily"],
    group_name="costs",
    kinds={"duckdb"},
    description="Month to date by model and flow, what failures and retries cost, and the last 30 days.",
)
def cost_report(lake: LakeResource) -> dg.MaterializeResult:
    today = datetime.now(UTC).date().isoformat()
    days = [(date.fromisoformat(today) - timedelta(days=back)).isoformat() for back in range(DAYS)][::-1]

    def ask(costs: Costs) -> tuple[MonthToDate, dict[str, list[int]]]:
        kinds = costs.daily("kind", days[0], today)
        layers = {name: [found.get(day, 0) for day in days] for (name,), found in kinds.items()}
        return month_to_date(costs, today), layers

    reach = min(month_reach(today), days[0])
    month, layers = answer(lake.open(), lake.spool(), ask, since=reach, until=today)
    total, unknown = month.total, month.total.unknown
    models = [(" ".join(model.name), _known(model)) for model in month.models]
    numbers = {  # doubles, for Dagster's plots; the exact amounts stand beside them
        "month_to_date_usd": total.nano,
        "month_before_usd": month.before.nano,
        "failures_usd": month.failures.nano,
        "retries_usd": month.retries.nano,
    }
    return dg.MaterializeResult(
        metadata={
            "month": month.month,
            "as_of": today,
            "month_to_date": f"{format_nano(total.nano)} USD",
            "same_days_of_month_before": f"{format_nano(month.before.nano)} USD",
            "failures": f"{format_nano(month.failures.nano)} USD",
            "retries": f"{format_nano(month.retries.nano)} USD",
            "last_30_days": dg.MetadataValue.md(
                embed_spark(
                    [(day, sum(layer[at] for layer in layers.values())) for at, day in enumerate(days)]
                )
            ),
            "events": total.events,
            "events_without_price": unknown,
            "by_model": _table("model", month.models),
            "by_flow": _table("flow", month.flows),
            "days_by_kind": _picture(
                "daily costs by kind", draw_stack(days, layers, title="The last 30 days")
            ),
            "models": _picture(
                "month to date by model", draw_bars(models, title=f"Models in {month.month}", unknown=unknown)
            ),
            **{name: dg.MetadataValue.float(nano / 1e9) for name, nano in numbers.items()},
        }
    )


def _table(name: str, groups: tuple[Group, ...]) -> dg.TableMetadataValue:
    columns = (name, "usd", "events", "unpriced")  # Dagster's page has room for no more
    rows = [(" ".join(group.name), _say(_known(group)), group.events, group.unknown) for group in groups]
    return dg.MetadataValue.table(
        [dg.TableRecord(dict(zip(columns, map(str, row), strict=True))) for row in rows],
        dg.TableSchema([dg.TableColumn(column, "string") for column in columns]),
    )


def _known(group: Group) -> int | None:
    """None when not one event has a price: that is no 0."""
    return None if group.events == group.unknown else group.nano


def _say(nano: int | None) -> str:
    return "unknown" if nano is None else format_nano(nano)


def _picture(alt: str, svg: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(embed_svg(alt, svg))
