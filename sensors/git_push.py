"""A run for each push that a flow wants, by Dagster's daemon.

Switch it on in the Dagster UI where `maestro dev` does not run; beside `maestro dev` it does nothing.
"""

from maestro_dagster.project.sensor import build_push_sensor

git_push = build_push_sensor(__file__)
