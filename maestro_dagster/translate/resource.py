"""The rooms of the engine as Dagster resources, for hand-written assets of a project.

A field that is None stands for what the project's settings say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from maestro_dagster.artifacts.interface import Artifact, ArtifactStore
from maestro_dagster.translate.runtime import Runtime, project_runtime

if TYPE_CHECKING:
    from maestro_dagster.costs.compact import Check, CompactionReport
    from maestro_dagster.costs.interface import UsageSpool
    from maestro_dagster.costs.lake import Lake
    from maestro_dagster.engine.interface import RunView
    from maestro_dagster.evidence.interface import Signer
    from maestro_dagster.llm.interface import ModelHub
    from maestro_dagster.policy.interface import PolicyEngine


class _ProjectResource(dg.ConfigurableResource[Any]):
    """`project` is the project's folder; None: the one around the working directory."""

    project: str | None = None

    def open_runtime(self) -> Runtime:
        if self.project is None:
            return project_runtime()
        import maestro_dagster

        runtime: Runtime = maestro_dagster.open_runtime(Path(self.project))
        return runtime


class MaestroResource(_ProjectResource):
    """The project's runs and their evidence."""

    def list_runs(self, limit: int = 50, status: str | None = None) -> list[RunView]:
        return list(self.open_runtime().engine.list_runs(limit=limit, status=status))

    def view(self, run_id: str) -> RunView:
        return self.open_runtime().engine.view(run_id)

    def evidence(self, run_id: str) -> Path:
        """The bundle of a run that has ended."""
        return self.open_runtime().engine.close(run_id)


class ArtifactStoreResource(_ProjectResource):
    """Artifacts by digest. `url` overrides where they are: a folder or any fsspec URL."""

    url: str | None = None

    def open(self) -> ArtifactStore:
        if self.url is None:
            return self.open_runtime().engine.services.store
        from maestro_dagster.artifacts.store import open_store

        return open_store(self.url)

    def read(self, digest: str) -> bytes:
        return self.open().read(digest)

    def put(self, data: bytes, media_type: str) -> Artifact:
        return self.open().put_bytes(data, media_type)


class SignerResource(_ProjectResource):
    """The project's key. `folder` overrides where it lies."""

    folder: str | None = None

    def open(self) -> Signer:
        """Raises KeyMissingError."""
        from maestro_dagster.evidence.key import load_signer

        if self.folder is None:
            return self.open_runtime().engine.services.signer or load_signer(
                self.open_runtime().home / "keys"
            )
        return load_signer(Path(self.folder))


class PolicyResource(_ProjectResource):
    """The project's packs. `folder` overrides where they are; `engine` is `regorus` or `opa`."""

    folder: str | None = None
    engine: str = "regorus"
    opa_command: str = ""

    def open(self) -> PolicyEngine:
        if self.folder is None:
            return self.open_runtime().engine.services.policy
        from maestro_dagster.policy.engine import open_policy_engine

        return open_policy_engine(Path(self.folder), kind=self.engine, command=self.opa_command)

    def evaluate(self, document: Mapping[str, Any]) -> Any:
        return self.open().evaluate(document)


class ModelHubResource(_ProjectResource):
    """The project's models, routed and accounted."""

    def open(self) -> ModelHub:
        return self.open_runtime().engine.services.hub


class LakeResource(_ProjectResource):
    """The usage lake and the spool that it is made from. `folder`: a path or URL of another lake."""

    folder: str | None = None

    def open(self) -> Lake:
        from maestro_dagster.costs.lake import open_lake

        if self.folder is not None:
            return open_lake(self.folder)
        runtime = self.open_runtime()
        return open_lake(runtime.lake or runtime.home / "lake")

    def compact(self, day: str, check: Check | None = None) -> CompactionReport:
        """Publishes a day (YYYY-MM-DD) with what the spool has of it, if `check` lets it pass.

        Raises CostError.
        """
        from maestro_dagster.costs.compact import compact_day

        return compact_day(self.spool(), self.open(), day, self.has_ended, check)

    def waiting_days(self) -> tuple[str, ...]:
        """Days that the spool still has usage or lineage of, ascending."""
        from maestro_dagster.costs.compact import spool_days
        from maestro_dagster.costs.lineage import lineage_days

        spool = self.spool()
        return tuple(sorted({*spool_days(spool), *lineage_days(spool.lineage)}))

    def spool(self) -> UsageSpool:
        return self.open_runtime().engine.services.spool

    def has_ended(self, run_id: str) -> bool:
        """A run whose evidence is written uses nothing more; an unknown one may still be anybody's."""
        from maestro_dagster.errors import JournalError

        try:
            return self.open_runtime().engine.services.journal.run(run_id).evidence_path is not None
        except JournalError:
            return False


class ArtifactIOManagerResource(dg.ConfigurableIOManagerFactory[Any]):
    """The IO manager on the artifact store: name it `maestro_io`, and use that as `io_manager_key`."""

    project: str | None = None

    def create_io_manager(self, context: dg.InitResourceContext) -> Any:
        from maestro_dagster.translate.io_manager import ArtifactIOManager

        del context
        return ArtifactIOManager(_ProjectResource(project=self.project).open_runtime)
