"""What everything cost, as Parquet. `lake` in [tool.maestro] says where, unless `folder` says it here."""

from maestro_dagster.translate.resource import LakeResource

lake = LakeResource()
