"""The models of models.yaml, and the endpoint that `model_base_url` in [tool.maestro] names."""

from maestro_dagster.translate.resource import ModelHubResource

model_hub = ModelHubResource()
