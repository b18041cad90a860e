"""What one step costs: a chain of 100, each making an artifact of 200 bytes, claims and journal included.

Imports and definitions are left out of the CPU figure on both sides; bytes are all that the run left on disk.
"""

from __future__ import annotations

import time
from pathlib import Path

STEPS = 100
BODY = "x" * 200


def maestro(folder: Path) -> dict[str, float]:
    from maestro_dagster.engine.interface import RunRequest
    from maestro_dagster.manifest.model import Flow
    from maestro_dagster.project.root import find_project
    from maestro_dagster.project.runtime import open_runtime
    from maestro_dagster.project.scaffold import init_project
    from maestro_dagster.workers.execute import execute_run
    from maestro_dagster.workers.instance import open_instance

    init_project(folder / "shop")
    runtime = open_runtime(find_project(folder / "shop"))
    steps = [
        {
            "id": f"s{number}",
            "uses": "pkg:text/template@1.0.0",
            "with": {"template": f"{number} {BODY}"},
            "needs": [f"s{number - 1}"] if number else [],
        }
        for number in range(STEPS)
    ]
    flow = Flow.model_validate({"name": "chain", "version": "1.0.0", "tasks": steps})
    with open_instance(runtime.home) as instance:
        instance.get_runs_count()  # opens the storage, as a running deployment has
        before_bytes = size_of(folder)
        before = time.process_time()
        runtime.engine.request(RunRequest(run_id="bench", flow=flow))
        view = execute_run(runtime, "bench")
        cpu = time.process_time() - before
        assert view.status == "succeeded", view.error
        events = sum(len(instance.all_logs(run)) for run in runtime.engine.dagster_runs("bench"))
    return {
        "cpu_ms": cpu * 1000 / STEPS,
        "events": events / STEPS,
        "bytes": (size_of(folder) - before_bytes) / STEPS,
    }


def asset_per_node(folder: Path) -> dict[str, float]:
    import dagster as dg

    def node(number: int) -> dg.AssetsDefinition:
        @dg.asset(name=f"s{number}", deps=[f"s{number - 1}"] if number else None)
        def body() -> str:
            return f"{number} {BODY}"

        return body

    return _stock(folder, [node(number) for number in range(STEPS)])


def one_multi_asset(folder: Path) -> dict[str, float]:
    import dagster as dg

    @dg.multi_asset(
        outs={f"s{number}": dg.AssetOut() for number in range(STEPS)},
        internal_asset_deps={
            f"s{number}": {dg.AssetKey(f"s{number - 1}")} if number else set() for number in range(STEPS)
        },
    )
    def chain():  # noqa: ANN202 - a generator of Dagster outputs
        for number in range(STEPS):
            yield dg.Output(f"{number} {BODY}", output_name=f"s{number}")

    return _stock(folder, [chain])


def _stock(folder: Path, assets: list[object]) -> dict[str, float]:
    import dagster as dg

    home = folder / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.get_runs_count()  # opens the storage, as a running deployment has
        before_bytes = size_of(folder)
        before = time.process_time()
        result = dg.materialize(assets, instance=instance)  # type: ignore[arg-type]
        cpu = time.process_time() - before
        assert result.success
        events = len(instance.all_logs(result.run_id))
    return {
        "cpu_ms": cpu * 1000 / STEPS,
        "events": events / STEPS,
        "bytes": (size_of(folder) - before_bytes) / STEPS,
    }


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
