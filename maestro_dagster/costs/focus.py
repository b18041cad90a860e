"""FOCUS 1.2, the open form of cost and usage data of the FinOps Foundation (https://focus.finops.org).

A row is one meter of one step of one run in one hour: each kind of token, CPU time, memory, network,
storage. The mapping is `sql/focus_charge.sql` and `sql/focus_row.sql`; quantities and costs are exact.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from maestro_dagster.errors import CostError

if TYPE_CHECKING:
    import pyarrow as pa

_COST: Final = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "PricingCurrencyEffectiveCost")
_QUANTITY: Final = ("ConsumedQuantity", "PricingQuantity")
_PRICE: Final = (
    "ContractedUnitPrice", "ListUnitPrice", "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyListUnitPrice",
)  # fmt: skip
_TIME: Final = ("BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart")
COLUMNS: Final = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency",
    "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription",
    "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart", "CommitmentDiscountId",
    "CommitmentDiscountStatus", "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice",
    "EffectiveCost", "InvoiceId", "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory",
    "PricingCurrency", "PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName",
    "ResourceId", "ResourceName", "ResourceType", "ServiceCategory", "ServiceName", "ServiceSubcategory",
    "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName",
    "SubAccountType", "Tags", "x_Events", "x_Flow", "x_Outcome", "x_Project", "x_Step",
)  # fmt: skip
_BATCH_ROWS = 16_384
_MEMORY = "1GB"  # of DuckDB; what does not fit goes to the scratch folder


@dataclass(frozen=True, slots=True)
class Charge:
    """An amount that no usage event stands for: a share of a common cost, or with a negative one a credit.

    `start` is RFC 3339 UTC; the charge covers the day of it. `tags` go into the column Tags.
    """

    tenant: str
    nano: int
    description: str
    start: str
    env: str = "shared"
    project: str = ""
    service: str = "Maestro Shared"
    tags: tuple[tuple[str, str], ...] = ()


def focus_schema() -> pa.Schema:
    """Costs DECIMAL(38,9), quantities (38,9), unit prices (38,18), times in UTC, the rest text."""
    import pyarrow as pa

    types: dict[str, pa.DataType] = dict.fromkeys(COLUMNS, pa.string())
    types |= dict.fromkeys((*_COST, *_QUANTITY), pa.decimal128(38, 9))
    types |= dict.fromkeys(_PRICE, pa.decimal128(38, 18))
    types |= dict.fromkeys(_TIME, pa.timestamp("us", tz="UTC"))
    types |= {"x_Events": pa.int64()}
    return pa.schema([(name, types[name]) for name in COLUMNS], metadata={"focus.version": "1.2"})


def focus_batches(usage: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[pa.RecordBatch]:
    """The rows of one day of usage (batches in the lake's schema), in a stable order.

    DuckDB groups and sorts; what does not fit into memory goes to a folder in `scratch`, which is removed.
    Raises CostError (`focus-failed`).
    """
    import duckdb
    import pyarrow as pa

    from maestro_dagster.costs.duck import connect_memory
    from maestro_dagster.costs.schema import usage_schema

    schema = usage_schema()
    failures: list[CostError] = []  # of reading: on its way through DuckDB an error loses its class
    reader = pa.RecordBatchReader.from_batches(schema, _watch(usage, schema, failures))
    with tempfile.TemporaryDirectory(prefix=".focus-", dir=scratch) as folder:
        try:
            with connect_memory(temp_directory=folder, memory_limit=_MEMORY) as connection:
                connection.register("usage", reader)
                connection.execute(_read_sql("focus_charge"))
                rows = connection.sql(_read_sql("focus_row")).to_arrow_reader(_BATCH_ROWS)
                yield from (batch.cast(focus_schema()) for batch in rows)
        except duckdb.Error as error:
            if failures:
                raise failures[0] from error
            raise CostError(
                f"usage cannot be told in FOCUS: {str(error).splitlines()[0][:200]}", code="focus-failed"
            ) from error


def _watch(
    usage: Iterable[pa.RecordBatch], schema: pa.Schema, failures: list[CostError]
) -> Iterator[pa.RecordBatch]:
    try:
        for batch in usage:
            yield batch.cast(schema)
    except CostError as error:
        failures.append(error)
        raise


def table_of_charges(charges: Sequence[Charge]) -> pa.Table:
    """Rows of the FOCUS schema, in the order given."""
    import pyarrow as pa

    return pa.Table.from_pylist([_charge_row(charge) for charge in charges], schema=focus_schema())


def _read_sql(name: str) -> str:
    return files("maestro_dagster.costs").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def _charge_row(charge: Charge) -> dict[str, Any]:
    day = (
        datetime.fromisoformat(charge.start)
        .astimezone(UTC)
        .replace(hour=0, minute=0, second=0, microsecond=0)
    )
    month = day.replace(day=1)
    amount = Decimal(charge.nano).scaleb(-9)
    usage = charge.nano >= 0
    one, sku = Decimal(1), f"maestro/{charge.service.lower().replace(' ', '-')}"
    row: dict[str, Any] = dict.fromkeys(_COST, amount)
    row |= {
        "BillingAccountId": f"acct-{charge.tenant}",
        "BillingAccountName": charge.tenant,
        "BillingAccountType": "Tenant",
        "BillingCurrency": "USD",
        "BillingPeriodStart": month,
        "BillingPeriodEnd": (month + timedelta(days=32)).replace(day=1),
        "ChargeCategory": "Usage" if usage else "Credit",
        "ChargeDescription": charge.description,
        "ChargeFrequency": "Usage-Based" if usage else "One-Time",
        "ChargePeriodStart": day,
        "ChargePeriodEnd": day + timedelta(days=1),
        "InvoiceIssuerName": "Maestro",
        "PricingCurrency": "USD",
        "ProviderName": "Maestro",
        "PublisherName": "Maestro",
        "ServiceCategory": "Other",
        "ServiceName": charge.service,
        "ServiceSubcategory": "Other (Other)",
        "SubAccountId": f"{charge.tenant}/{charge.env}",
        "SubAccountName": charge.env,
        "SubAccountType": "Environment",
        "Tags": json.dumps(dict(charge.tags), sort_keys=True, separators=(",", ":")),
        "x_Project": charge.project,
        "x_Events": 0,
    }
    if usage:
        row |= dict.fromkeys(_QUANTITY, one) | dict.fromkeys(_PRICE, amount)
        row |= {"ConsumedUnit": "Charges", "PricingUnit": "Charges", "PricingCategory": "Standard",
                "SkuId": sku, "SkuMeter": "Other Charges", "SkuPriceId": sku,
                "SkuPriceDetails": '{"x_Meter":"Other Charges"}'}  # fmt: skip
    return row
