"""Which secrets a run may meet: all that its flow names, before any step could print one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from maestro_dagster.engine.forecast import Look, StepPlan, plan_step
from maestro_dagster.engine.row import RunRow, hide_git
from maestro_dagster.engine.scope import fill_params
from maestro_dagster.engine.services import Services
from maestro_dagster.engine.settlement import format_time
from maestro_dagster.errors import MaestroError
from maestro_dagster.manifest.expression import GIT_FIELDS, resolve
from maestro_dagster.manifest.model import Flow


def learn_secrets(
    services: Services, run: RunRow, flow: Flow, plans: Iterable[StepPlan] | None = None
) -> None:
    """Teaches the process's redactor every secret that a step of the flow may read.

    A secret leaves its step in what the step made, and a later step or a new process may print it: so
    the whole flow's secrets are hidden in every step. Once for each run and process. A secret that is
    missing or may not be read is no error here: admission and the step itself say so.
    """
    if services.redactor.knows(run.run_id):
        return
    names = {
        "params": fill_params(flow, run.params),
        "git": {**dict.fromkeys(GIT_FIELDS, ""), **run.git},
        "run": {"id": run.run_id},
    }
    if plans is None:
        look = Look(services, names, format_time(run.requested_at), run.region or services.region)
        plans = [plan_step(look, task, f"/tasks/{index}")[0] for index, task in enumerate(flow.tasks)]
    wanted = {name for plan in plans for name in plan.effects.secrets}
    for task in flow.tasks:
        wanted |= {*task.secrets, *_named_in(task.with_, names)}
    for name in sorted(wanted):
        try:
            value = services.secrets(name)
        except MaestroError:
            continue
        if value is not None:
            services.redactor.add(value)
    services.redactor.mark(run.run_id)


def hide_context(services: Services, context: Mapping[str, Any]) -> dict[str, Any]:
    """What the evidence says of the request, without secrets. Digests and identifiers stay as they are."""
    hide = services.redactor.hide_in
    hidden = dict(context)
    for name in ("params", "partition", "cancelled_because"):
        if name in hidden:
            hidden[name] = hide(hidden[name])
    if "git" in hidden:
        hidden["git"] = hide_git(hidden["git"], hide)
    return hidden


def hide_decision(services: Services, decision: Mapping[str, Any]) -> dict[str, Any]:
    """The decision with its texts hidden: a pack may quote what it was asked about."""
    hide = services.redactor.hide_in
    verdicts = [
        {
            **verdict,
            "violations": [
                {**each, "message": hide(each["message"]), "remedy": hide(each["remedy"])}
                for each in verdict["violations"]
            ],
            "warnings": hide(list(verdict["warnings"])),
        }
        for verdict in decision["verdicts"]
    ]
    return {**decision, "verdicts": verdicts}


def _named_in(value: Any, names: Mapping[str, Any], *, named: bool = False) -> Iterator[str]:
    """The texts below keys that speak of a secret: `auth_secret: token`, also inside a control/map."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _named_in(each, names, named="secret" in str(key).lower())
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _named_in(each, names, named=named)
    elif named and isinstance(value, str):
        try:
            found = resolve(value, names)
        except MaestroError:
            return  # known only to the running step, which teaches it then
        if isinstance(found, str):
            yield found
