"""A run for each pull request, release, deletion, pipeline or check that a flow wants, by Dagster's daemon.

Webhooks bring them; see docs/how-to/receive-webhooks.md. Switch it on in the Dagster UI where `maestro dev`
does not run; beside `maestro dev` it does nothing.
"""

from maestro_dagster.project.sensor import build_event_sensor

ci_event = build_event_sensor(__file__)
