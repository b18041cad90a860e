"""Raw = cubes = FOCUS = CSV = Parquet = report, while writers and compactor are killed again and again.

A million events over 4 days take one to two minutes on two cores; `MAESTRO_SOAK=1` makes it 100 million over
90 days, and `MAESTRO_SOAK_EVENTS` says another number. `MAESTRO_SEED` repeats what a run tells as its seed:
the same events and deaths, at the same steps; what goes on elsewhere at that moment is up to the machine.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for this module and for the processes it starts

from costs_plan import Plan, make_lines
from costs_proof import DayProof, Sums, prove_day
from costs_yard import Yard, open_yard

from maestro_dagster.costs.cube import CUBES
from maestro_dagster.costs.lake import Lake, open_lake
from maestro_dagster.costs.question import answer
from maestro_dagster.costs.report import report_period
from maestro_dagster.costs.spool import Spool
from maestro_dagster.manifest.money import format_nano, parse_usd

SOAK = os.environ.get("MAESTRO_SOAK") == "1"
EVENTS = int(os.environ.get("MAESTRO_SOAK_EVENTS", "100000000" if SOAK else "1000000"))
DAYS = 90 if SOAK else 4
LATE_EVERY = 9 if SOAK else 1

pytestmark = [pytest.mark.slow, pytest.mark.timeout(6 * 3600 if SOAK else 900)]


def test_every_form_of_the_usage_adds_up_while_everybody_is_killed(tmp_path: Path) -> None:
    from usage_data import day_range

    seed = int(os.environ.get("MAESTRO_SEED") or random.randrange(2**31))
    plan = Plan(tmp_path, seed, day_range(DAYS), EVENTS // DAYS, LATE_EVERY)
    show(f"seed {plan.seed}")
    open_yard(plan)
    yard = Yard(plan, plan.random("yard"))
    for number, day in enumerate(plan.days, start=1):
        yard.fill_day(day)
        show(f"{day}: {number} of {DAYS} days written, kills {yard.kills}")
    spool, lake = Spool(plan.spool), open_lake(tmp_path / ".maestro" / "lake")
    assert spool.files() == ()
    hold_disorder(plan, yard)

    proofs = []
    for number, day in enumerate(plan.days):
        # FOCUS as text is FOCUS as Parquet in more letters: of a soak's days some are enough.
        more = ("focus-csv",) if SOAK and number % 30 == 0 else ()
        proof = prove_day(plan, lake, day, yard.live, ("csv", "parquet", "focus", *more))
        hold_forms(proof)
        proofs.append(proof)
        show(f"{day}: {proof.events} events, {format_nano(proof.nano)} USD, the same in "
              f"{', '.join(proof.forms)}")  # fmt: skip
    assert lake.usage.days() == plan.days
    assert sum(proof.events for proof in proofs) >= plan.rows * DAYS
    hold_report(proofs, lake, spool)


def show(line: str) -> None:
    """A soak takes an hour or two: `pytest -s` tells how far it is."""
    sys.stderr.write(f"{line}\n")


def hold_disorder(plan: Plan, yard: Yard) -> None:
    """What this is about did happen: kills of everybody, torn files, late events and duplicates."""
    assert all(yard.kills.values()), yard.kills
    assert yard.torn
    assert yard.reopened
    first, late = (make_lines(plan, plan.days[0], late=late) for late in (False, True))
    assert first["event_id"].n_unique() < first.height
    assert late.join(first, on="event_id", how="anti").height
    assert late.join(first, on="event_id", how="semi").height


def hold_forms(proof: DayProof) -> None:
    """Every form has the same sum and counts, and the same sum of each model where it tells models."""
    whole = {name for name in CUBES if name != "cube_day_model"}
    for form, sums in proof.forms.items():
        assert sum(sums.values()) - proof.nano == 0, f"{proof.day}: {form}"
        assert proof.counts[form] == (proof.events, proof.unknown), f"{proof.day}: {form}"
        if form not in whole:
            assert sums == proof.wanted, f"{proof.day}: {form}"


def hold_report(proofs: list[DayProof], lake: Lake, spool: Spool) -> None:
    models: Counter[tuple[str, str]] = Counter()
    for proof in proofs:
        models.update(proof.wanted)
    report = answer(lake, spool, lambda costs: report_period(costs, "day"))
    nano, unknown = sum(models.values()), sum(proof.unknown for proof in proofs)
    assert parse_usd(report["known_usd"]) - nano == 0
    assert report["events"] == sum(proof.events for proof in proofs)
    assert report["unknown_events"] == unknown
    assert report["total_usd"] == (None if unknown else format_nano(nano))
    assert {row["day"]: parse_usd(row["known_usd"]) for row in report["rows"]} == {
        proof.day: proof.nano for proof in proofs
    }
    told: Sums = {(row["provider"], row["model"]): parse_usd(row["known_usd"]) for row in report["by_model"]}
    assert {name: nano for name, nano in told.items() if nano} == {
        name: nano for name, nano in models.items() if name != ("", "") and nano
    }
