"""Thresholds of budgets that were reached: taken once, and sent to a webhook until it has them.

An alert waits as a file `<id>.json` in `<home>/alerts/waiting`, which is the message itself, before it counts
as taken, and until its receiver took it. So a crash or a receiver that is down loses none, and none is sent
again after it was taken. Whoever dies right after the receiver's answer sends once more under the same id.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from maestro_dagster.errors import MaestroError
from maestro_dagster.manifest.money import format_nano

if TYPE_CHECKING:
    from maestro_dagster.costs.account import Act
    from maestro_dagster.costs.budget import BudgetTree
    from maestro_dagster.costs.webhook import Patience
    from maestro_dagster.project.root import Project

EVENT_TYPE: Final = "maestro.budget-alert.v1"
_LONGEST: Final = 20.0  # seconds of one tick for sending; Dagster ends a sensor after 60


def take_alerts(project: Project, tree: BudgetTree, day: str) -> list[Act]:
    """What is to be told now: each threshold once a period, whoever asks. Keeps it for the webhook, if set.

    Raises CostError (`disk-full`, `spool-write`): what cannot be kept is not taken.
    """
    from maestro_dagster.costs.budget_report import find_alerts, take_alert
    from maestro_dagster.costs.lease import lock_folder

    found = find_alerts(tree, day)
    if not found or project.settings.alert_webhook is None:
        return [alert for alert in found if take_alert(tree, alert)]
    folder, taken = _waiting(project), []
    with lock_folder(folder):
        for alert in find_alerts(tree, day):  # again: somebody else may have had the lock
            path = folder / f"{alert_id(alert)}.json"
            _keep(path, make_message(alert))
            if take_alert(tree, alert):
                taken.append(alert)
            else:
                path.unlink(missing_ok=True)  # a process with another home sends it
    return taken


def send_alerts(
    project: Project, *, patience: Patience | None = None, longest: float = _LONGEST
) -> list[str]:
    """Sends what waits, the longest untried first; gives what went wrong, which is tried again next time."""
    from maestro_dagster.costs.lease import lock_folder

    folder = _waiting(project)
    if project.settings.alert_webhook is None or not any(folder.glob("*.json")):
        return []
    begin, problems = time.monotonic(), []
    with lock_folder(folder):
        waiting = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for number, path in enumerate(waiting):
            if time.monotonic() - begin > longest:
                problems.append(f"{len(waiting) - number} alerts wait for the next time")
                break
            if problem := _send(project, project.settings.alert_webhook, path, patience):
                problems.append(problem)
                if path.exists():
                    os.utime(path)
    return problems


def alert_id(alert: Act) -> str:
    """The same for the same node, period and threshold."""
    return f"msg_{hashlib.sha256(f'{alert.account.key}#{alert.action}'.encode()).hexdigest()}"


def make_message(alert: Act) -> bytes:
    """JSON; money as decimal strings of USD, null where nothing limits."""
    account = alert.account
    data: dict[str, Any] = {
        "budget": account.name,
        "path": account.path,
        "period": account.key.partition("#")[2],
        "action": alert.action,
        "spent_usd": format_nano(alert.spent_nano),
        "soft_usd": None if account.soft_nano is None else format_nano(account.soft_nano),
        "hard_usd": None if account.hard_nano is None else format_nano(account.hard_nano),
        "tokens": alert.spent_tokens,
        "tokens_limit": account.tokens,
        "renews": f"{account.renews}T00:00:00Z" if account.renews else None,
        "text": alert.to_text(),
    }
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    body = {"type": EVENT_TYPE, "timestamp": moment, "data": data}
    return json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _send(project: Project, url: str, path: Path, patience: Patience | None) -> str:
    """What went wrong, "" when the receiver took it."""
    from maestro_dagster.costs.webhook import Patience, record_delivery, send_message
    from maestro_dagster.project.export import DELIVERIES, find_webhook_secret

    patience = patience or Patience(attempts=2, timeout=4.0, first_wait=0.5, total=2.0)
    try:
        body, secret = path.read_bytes(), find_webhook_secret(project)
        allowed = project.settings.network_allow_private
        sent = send_message(url, secret, body, path.stem, allowed=allowed, patience=patience)
        if not sent.delivered:
            return f"{sent.host} did not take an alert, which is tried again: {sent.error}"
        path.unlink()
    except (MaestroError, OSError) as error:
        return f"an alert was not sent, which is tried again: {error}"
    try:
        record_delivery(path.parents[1] / DELIVERIES, sent)
    except MaestroError as error:
        return f"an alert was sent, which was not written down: {error}"
    return ""


def _waiting(project: Project) -> Path:
    return project.home / "alerts" / "waiting"


def _keep(path: Path, body: bytes) -> None:
    """Durable before the alert is taken. What waits already stays as it is: it may have been sent before."""
    from maestro_dagster.costs.spool import write_error

    if path.exists():
        return
    draft = path.with_suffix(".part")
    try:
        with draft.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise write_error(error, path) from error
