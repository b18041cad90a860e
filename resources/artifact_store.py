"""Artifacts by digest. Where they are says `artifact_store` in [tool.maestro], unless `url` says it here."""

from maestro_dagster.translate.resource import ArtifactIOManagerResource, ArtifactStoreResource

artifact_store = ArtifactStoreResource()

# For Python assets with `io_manager_key="maestro_io"`: they read the artifacts of flows as parameters.
maestro_io = ArtifactIOManagerResource()
