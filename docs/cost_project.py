"""A project with 45 days of usage, for the pictures of docs/costs.md: `cost_project.py FOLDER`.

Runs are invented, everything else is real: events go through the spool, days through the assets of a Dagster
instance. One day costs twice as much as usual, and one has an event that no check lets pass.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maestro_dagster.costs.interface import UsageEvent
    from maestro_dagster.costs.rate import RateCard
    from maestro_dagster.engine.journal import Journal
    from maestro_dagster.manifest.model import Flow

DAYS = 45
QUARANTINED, ANOMALOUS = 2, 9  # days ago
LATE = 6  # days on which Dagster is at work as they come
RUNS_A_DAY = 15
MODELS = {  # provider, USD for a million tokens in and out
    "gpt-4.1-mini": ("openai", "0.4", "1.6"),
    "claude-haiku-4-5-20251001": ("anthropic", "1", "5"),
    "gemini/gemini-2.5-flash": ("gemini", "0.3", "2.5"),
    "mistral-small-latest": ("mistral", "0.15", "0.6"),
    "in-house-preview": ("internal", "", ""),  # nobody has said what it costs
}
MODEL_TURNS = tuple(list(MODELS)[at] for at in (0, 0, 0, 1, 1, 2, 2, 3))  # of a step's calls
BUDGET = """\
    tenants:
      default:
        tier: gold
        month: {soft: "200", hard: "260"}
"""


def main(root: Path) -> None:
    maestro = str(Path(sys.executable).parent / "maestro")
    subprocess.run([maestro, "init", str(root)], check=True, timeout=120, stdout=subprocess.DEVNULL)
    brief = (Path(__file__).resolve().parents[1] / "recipes/daily-ai-brief/flow.yaml").read_text("utf-8")
    for name in ("daily-ai-brief", "support-digest", "tender-watch"):
        text = brief.replace("name: daily-ai-brief", f"name: {name}")
        (root / f"assets/{name}.yaml").write_text(text, encoding="utf-8")
    budgets = root / "resources" / "budgets.yaml"
    budgets.write_text(budgets.read_text("utf-8").replace("    tenants: {}\n", BUDGET), encoding="utf-8")
    os.environ["MAESTRO_PROJECT"] = str(root)
    os.chdir(root)
    days = [(datetime.now(UTC).date() - timedelta(days=back)).isoformat() for back in range(DAYS)][::-1]
    write_usage(root, days, days[:-LATE])
    materialise(root, days)


def write_usage(root: Path, days: list[str], wanted: list[str]) -> None:
    """The runs of some of the days in the journal, their events in the spool."""
    from maestro_dagster.costs.rate import RateCard
    from maestro_dagster.project.load import read_flows
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.services import open_journal, open_spool

    project = find_project(root)
    project.home.mkdir(exist_ok=True)
    flows, rates = read_flows(project), RateCard.load(root / "resources/rates.yaml")
    journal, spool = open_journal(project), open_spool(project)
    for number, day in enumerate(days):
        if day not in wanted:
            continue
        dice = random.Random(day)  # noqa: S311 - pictures, no secrets
        back = len(days) - 1 - number
        weekend = date.fromisoformat(day).weekday() >= 5
        runs = round(RUNS_A_DAY * (0.4 if weekend else 1) * (1 + number / 150))
        for at in range(runs):
            flow = flows[at % len(flows)]
            run_id = f"{day.replace('-', '')}-{at:04d}-{dice.randrange(16**6):06x}"
            start = datetime.fromisoformat(f"{day}T06:00:00+00:00").timestamp() + at * 1800
            if start > time.time():
                break  # today is not over
            events = list(use(dice, rates, flow, run_id, start, 2.2 if back == ANOMALOUS else 1.0))
            _end_run(journal, flow, run_id, start)
            with spool.open_run(run_id) as writer:
                writer.append(events)
    if days[-1 - QUARANTINED] in wanted:
        _plant(spool, days[-1 - QUARANTINED])
    journal.close()


def use(
    dice: random.Random, rates: RateCard, flow: Flow, run_id: str, start: float, much: float
) -> Iterator[UsageEvent]:
    """What a run used: every step some compute, memory and network; steps with a model its tokens too."""
    from maestro_dagster.costs.event import UsageScope, price_attempt

    for step in flow.tasks:
        for attempt in (1, 2) if dice.random() < 0.05 else (1,):
            scope = UsageScope("default", run_id, flow.name, step.id, attempt, env="prod")
            start += dice.uniform(2, 40)
            cpu = int(dice.lognormvariate(9, 0.8))
            outcome = "failed" if dice.random() < 0.02 else "ok"
            yield from price_attempt(
                rates,
                scope,
                started_at=start,
                cpu_ms=cpu,
                wall_ms=cpu * 2,
                memory_kb_ms=cpu * 180_000,
                bytes_in=int(dice.lognormvariate(12, 1)),
                bytes_out=int(dice.lognormvariate(13, 1)),
                bytes_stored=int(dice.lognormvariate(14, 1)),
                outcome=outcome,
            )
            if step.uses.startswith("pkg:llm/"):
                for call in range(len(MODEL_TURNS)):
                    yield _call(dice, scope, call, start, much)


def _call(dice: random.Random, scope: Any, call: int, start: float, much: float) -> UsageEvent:
    from dataclasses import replace

    from maestro_dagster.costs.event import format_time
    from maestro_dagster.manifest.money import parse_usd

    model = MODEL_TURNS[call] if dice.random() > 0.01 else "in-house-preview"
    provider, price_in, price_out = MODELS[model]
    tokens_in, tokens_out = int(dice.gauss(90_000, 9_000) * much), int(dice.gauss(12_000, 1_500) * much)
    event = scope.make_event(
        "llm",
        event_id=f"{scope.run_id}/{scope.step}/{scope.attempt}/call-{call}",
        provider=provider,
        model=model,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        wall_ms=900,
        occurred_at=format_time(start),
    )
    if not price_in:
        return event
    nano_in, nano_out = (
        tokens * parse_usd(price) // 1_000_000
        for tokens, price in ((tokens_in, price_in), (tokens_out, price_out))
    )
    return replace(
        event, nano_in=nano_in, nano_out=nano_out, cost_nano=nano_in + nano_out, price="models@2026-01-01"
    )


def _end_run(journal: Journal, flow: Flow, run_id: str, start: float) -> None:
    from maestro_dagster.engine.interface import RunRequest

    journal.request([RunRequest(run_id, flow, cause="schedule")])
    journal.finish_run(run_id, "succeeded", start + 600, [], "{}", None)
    journal.store_evidence(run_id, "none", "0" * 64)


def _plant(spool: Any, day: str) -> None:
    """An event such as a broken meter writes: fewer tokens than none."""
    from maestro_dagster.costs.event import UsageScope

    run_id = f"{day.replace('-', '')}-9999-badbad"
    scope = UsageScope("default", run_id, "support-digest", "brief", 1, env="prod")
    event = scope.make_event(
        "llm",
        event_id=f"{run_id}/brief/1/call-0",
        provider="openai",
        model="gpt-4.1-mini",
        tokens_in=-91_204,
        tokens_out=11_820,
        cost_nano=18_912_000,
        price="models@2026-01-01",
        occurred_at=f"{day}T11:30:00.000000Z",
    )
    with spool.open_run(run_id) as writer:
        writer.append([event])


def materialise(root: Path, days: list[str]) -> None:
    """The assets of group `costs`, as Dagster does it."""
    import dagster as dg

    from maestro_dagster.project.load import load_project
    from maestro_dagster.project.root import find_project
    from maestro_dagster.workers.instance import open_instance

    project = find_project(root)
    job = load_project(project).resolve_implicit_global_asset_job_def()
    exports = ["usage_export_csv", "usage_export_parquet", "usage_export_focus"]

    with open_instance(project.home) as instance:

        def make(names: list[str], partition: str | None = None) -> None:
            keys = [dg.AssetKey(name) for name in names]
            done = job.execute_in_process(
                instance=instance, partition_key=partition, asset_selection=keys, raise_on_error=False
            )
            print(partition or "", *names, "done" if done.success else "failed", flush=True)  # noqa: T201

        for number, day in enumerate(days):
            late = number >= len(days) - LATE
            if late:
                write_usage(root, days, [day])
            make(["usage_daily", "usage_cubes", *(exports if late else [])], day)
            if late:  # so that their numbers over time are a line
                make(["cost_report", "cost_forecast"])
        make(["usage_export_focus_month"], f"{days[-1][:7]}-01")
        make(["cost_report", "cost_forecast", "cost_anomalies", "usage_retention"])


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
