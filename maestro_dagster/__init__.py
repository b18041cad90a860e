"""Maestro on Dagster: flow manifests as asset graphs, governed, signed, priced, provable offline.

What is exported here is imported on first use: `maestro --help` must not pay for Dagster.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maestro_dagster.translate.component import FlowComponent as FlowComponent
    from maestro_dagster.translate.flow import build_flow_assets as build_flow_assets
    from maestro_dagster.translate.flow import build_flow_job as build_flow_job
    from maestro_dagster.translate.flow import build_flow_schedules as build_flow_schedules
    from maestro_dagster.translate.io_manager import ArtifactIOManager as ArtifactIOManager
    from maestro_dagster.translate.resource import ArtifactStoreResource as ArtifactStoreResource
    from maestro_dagster.translate.resource import MaestroResource as MaestroResource
    from maestro_dagster.translate.translator import FlowTranslator as FlowTranslator
    from maestro_dagster.translate.translator import FlowTranslatorSettings as FlowTranslatorSettings

# "module:attribute" below this package.
_EXPORTS = {
    "ArtifactIOManager": "translate.io_manager:ArtifactIOManager",
    "ArtifactStoreResource": "translate.resource:ArtifactStoreResource",
    "FlowComponent": "translate.component:FlowComponent",
    "FlowTranslator": "translate.translator:FlowTranslator",
    "FlowTranslatorSettings": "translate.translator:FlowTranslatorSettings",
    "MaestroResource": "translate.resource:MaestroResource",
    "build_flow_assets": "translate.flow:build_flow_assets",
    "build_flow_schedules": "translate.flow:build_flow_schedules",
    "build_flow_job": "translate.flow:build_flow_job",
    "open_runtime": "project.runtime:open_runtime",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605 - one list, the table above


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return [*globals(), *_EXPORTS]
