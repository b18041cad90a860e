"""What `make focus` runs: a FOCUS export of a day of usage, judged by the validator of the FinOps Foundation.

    python tests/focus/check.py PYTHON     PYTHON: of the environment that has focus-validator

The validator ends with 0 even when rules fail, so its totals are read. One rule fails for every file that
anybody can write: it wants InvoiceId to be null and not to be null.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
UNAVOIDABLE = {"InvoiceId-C-005-C"}
ROWS = 40_000
# What a FOCUS file of ours can speak of; it has no zones, regions, reservations and commitments.
CRITERIA = (
    "ACCOUNT_NAMING_SUPPORTED", "BILLING_BASED_ON_PROVISIONED_RESOURCES_SUPPORTED",
    "MULTIPLE_BILLING_ACCOUNT_TYPES_SUPPORTED", "MULTIPLE_PRICING_CATEGORIES_SUPPORTED",
    "MULTIPLE_SUB_ACCOUNT_TYPES_SUPPORTED", "NEGOTIATED_PRICING_SUPPORTED",
    "PRICING_BILLING_CURRENCY_DIFFERENCES_SUPPORTED", "PUBLIC_PRICE_LIST_SUPPORTED",
    "RESOURCE_TYPE_ASSIGNMENT_SUPPORTED", "SUB_ACCOUNT_SUPPORTED", "TAGGING_SUPPORTED",
    "UNIT_PRICING_SUPPORTED", "USAGE_MEASUREMENT_SUPPORTED", "VIRTUAL_CURRENCY_SUPPORTED",
)  # fmt: skip
_TOTAL = re.compile(r"Total: (\d+) \| Pass: (\d+) \| Fail: (\d+) \| Skipped: (\d+)")
_FAILED = re.compile(r"(\S+): FAIL\b")


def make_usage(rows: int) -> Any:
    """A busy day with everything that has a row of its own: open calls, calls priced as a whole, credits."""
    import pyarrow as pa

    sys.path.insert(0, str(REPOSITORY / "bench"))
    import usage_data

    table = usage_data.make_day("2026-03-31", rows)
    unusual = [
        {"event_id": "open", "phase": "intent", "cost_usd": Decimal("0.25"), "outcome": "open"},
        {"event_id": "whole", "cost_usd": Decimal("0.125")},
        {"event_id": "credit", "cost_usd": Decimal("-1.5")},
        {"event_id": "fee", "kind": "compute", "cpu_ms": 0, "cost_usd": Decimal("0.000000001")},
    ]
    parts = dict.fromkeys(("usd_in", "usd_out", "usd_cached", "usd_cache_write"))
    call = table.filter(pa.compute.equal(table["kind"], "llm")).slice(0, 1).to_pylist()[0]
    return pa.concat_tables(
        [table, pa.Table.from_pylist([call | parts | row for row in unusual], schema=table.schema)]
    )


def export_day(folder: Path, form: str, rows: int) -> tuple[Path, Any]:
    from maestro_dagster.costs.export import export_usage
    from maestro_dagster.costs.focus import Charge
    from maestro_dagster.costs.lake import open_lake
    from maestro_dagster.costs.statement import FORMATS
    from maestro_dagster.costs.usage_day import list_usage_days

    lake = open_lake(folder / f"lake-{form}")
    with lake.usage.lock_day("2026-03-31"):
        lake.usage.write_day("2026-03-31", make_usage(rows))
    shared = [
        Charge("tenant-00", 123_456_789, "Share of the platform", "2026-03-01T00:00:00Z"),
        Charge("tenant-01", -5, "Promotional credit", "2026-03-01T00:00:00Z"),
    ]
    target = folder / f"focus{FORMATS[form]}"
    return target, export_usage(list_usage_days(lake), target, form, charges=shared)


def validate(python: str, file: Path) -> tuple[str, set[str]]:
    """(the line of totals, the rules that failed)."""
    executable = Path(os.path.abspath(python))  # noqa: PTH100 - resolving the link would leave the environment
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([executable, "-c", where], capture_output=True, text=True, check=True)
    done = subprocess.run(
        [executable, "-m", "focus_validator.main", "--data-file", file, "--validate-version", "1.2",
         "--block-download", "--applicability-criteria", ",".join(CRITERIA)],
        capture_output=True, text=True, check=False, cwd=found.stdout.strip(),  # where it looks for its rules
    )  # fmt: skip
    totals = _TOTAL.search(done.stdout)
    if done.returncode or totals is None:
        sys.exit(f"the validator did not come to an end:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    failed = set(_FAILED.findall(done.stdout))
    if len(failed) != int(totals.group(3)):
        sys.exit(f"the validator counts {totals.group(3)} failures and names {sorted(failed)}")
    return totals.group(0), failed


def main(python: str) -> int:
    wrong = False
    with tempfile.TemporaryDirectory(prefix="maestro-focus-") as folder:
        for form in ("focus", "focus-csv"):
            file, statement = export_day(Path(folder), form, ROWS)
            line, failed = validate(python, file)
            wrong = wrong or failed != UNAVOIDABLE
            sys.stdout.write(
                f"{form}: {statement.rows} rows of {statement.events} events, "
                f"{statement.unknown} without a price left out\n  {line}\n  failed: {sorted(failed)}\n"
            )
    sys.stdout.write("refused: other rules fail than the one that no file can satisfy\n" if wrong else "ok\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
