"""The packs of policies/. Which engine evaluates them says `policy_engine` in [tool.maestro]."""

from maestro_dagster.translate.resource import PolicyResource

policy_engine = PolicyResource()
