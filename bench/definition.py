"""CPU to load the definitions of 10,000 steps: 200 flows of 50 steps, import of Dagster left out."""

from __future__ import annotations

import time
from pathlib import Path

FLOWS, STEPS = 200, 50


def maestro(folder: Path) -> dict[str, float]:
    import dagster as dg

    import maestro_dagster
    from maestro_dagster.manifest.model import Flow

    del folder
    flows = [
        Flow.model_validate(
            {
                "name": f"flow-{number}",
                "version": "1.0.0",
                "tasks": [
                    {
                        "id": f"s{step}",
                        "uses": "pkg:text/template@1.0.0",
                        "with": {"template": "x"},
                        "needs": [f"s{step - 1}"] if step else [],
                    }
                    for step in range(STEPS)
                ],
            }
        )
        for number in range(FLOWS)
    ]
    before = time.process_time()
    assets = [asset for flow in flows for asset in maestro_dagster.build_flow_assets(flow)]
    definitions = dg.Definitions(assets=assets)
    definitions.get_repository_def()
    return {"value": time.process_time() - before}


def asset_per_node(folder: Path) -> dict[str, float]:
    import dagster as dg

    del folder

    def node(flow: int, step: int) -> dg.AssetsDefinition:
        @dg.asset(
            key=[f"flow_{flow}", f"s{step}"],
            group_name=f"flow_{flow}",
            deps=[[f"flow_{flow}", f"s{step - 1}"]] if step else None,
        )
        def body() -> str:
            return "x"

        return body

    before = time.process_time()
    assets = [node(flow, step) for flow in range(FLOWS) for step in range(STEPS)]
    definitions = dg.Definitions(assets=assets)
    definitions.get_repository_def()
    return {"value": time.process_time() - before}
