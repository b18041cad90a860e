"""What is told of budgets: by a sensor of Dagster, by a webhook that fails, by the command."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from maestro_dagster.cli.main import command
from maestro_dagster.costs.budget import BudgetTree
from maestro_dagster.costs.budget_report import find_alerts
from maestro_dagster.costs.event import UsageScope
from maestro_dagster.costs.spool import Spool
from maestro_dagster.costs.webhook import Patience
from maestro_dagster.errors import CostError, MaestroError
from maestro_dagster.project.alert import send_alerts, take_alerts
from maestro_dagster.project.root import Project, find_project
from maestro_dagster.project.scaffold import init_project
from maestro_dagster.project.services import open_budgets
from maestro_dagster.translate.resource import LakeResource

DAY = time.strftime("%Y-%m-%d", time.gmtime())
MONTH = f"default#month:{DAY[:7]}"
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
QUICK = Patience(attempts=1, timeout=2.0)
BUDGETS = """\
version: 1
currency: USD
budgets:
- valid_from: "2020-01-01"
  actions: {warn: 80, downgrade: 90, slow: 95}
  tenants: {default: {month: {soft: "0.0000005", hard: "0.000001"}}}
"""


class Receiver:
    """A server that gives these statuses in turn, the last one for ever."""

    def __init__(self) -> None:
        self.statuses = [204]
        self.got: list[tuple[dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(outer.statuses[min(len(outer.got), len(outer.statuses)) - 1])
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    found = Receiver()
    monkeypatch.setenv("MAESTRO_ALERT_WEBHOOK", found.url)
    monkeypatch.setenv("MAESTRO_SECRET_COST_WEBHOOK", SECRET)
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = init_project(tmp_path / "shop").root
    (found / "resources" / "budgets.yaml").write_text(BUDGETS, encoding="utf-8")
    monkeypatch.setenv("MAESTRO_PROJECT", str(found))
    return found


@pytest.fixture
def tree(root: Path) -> Iterator[BudgetTree]:
    found = open_budgets(find_project(root))
    yield found
    found.counter.close()


def spend(tree: BudgetTree, nano: int, name: str) -> None:
    tree.counter.settle(tree.accounts(DAY, "f"), name, nano, 0, run_id=name)


def waiting(project: Project) -> list[Path]:
    return sorted((project.home / "alerts" / "waiting").glob("*.json"))


def actions(receiver: Receiver) -> list[str]:
    return [json.loads(body)["data"]["action"] for _, body in receiver.got]


# The sensor


def tick(repository: Path, root: Path, instance: dg.DagsterInstance) -> str:
    spec = importlib.util.spec_from_file_location("shipped_budget", repository / "sensors" / "budget.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lake = LakeResource(project=str(root))
    with dg.build_sensor_context(instance, resources={"lake": lake}) as context:
        found = module.budget_sensor.evaluate_tick(context)
    lake.open_runtime().engine.services.budgets.counter.close()
    assert not found.run_requests
    return str(found.skip_message)


def observations(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    records = instance.fetch_observations(dg.AssetKey("budget"), limit=50).records
    found = [record.asset_observation for record in reversed(records)]
    return [{name: value.value for name, value in one.metadata.items()} for one in found if one]


def test_each_threshold_is_observed_once(repository: Path, root: Path, tree: BudgetTree) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(repository, root, instance) == "no budget reached a threshold"
        spend(tree, 850, "a")
        said = tick(repository, root, instance)
        assert "soft (0.00000085 of 0.0000005 USD are spent)" in said
        assert "warn (0.00000085 of 0.000001 USD are spent)" in said
        assert tick(repository, root, instance) == "no budget reached a threshold"
        spend(tree, 150, "b")  # over two thresholds at once: the higher one is told
        assert "freeze" in tick(repository, root, instance)
        assert tick(repository, root, instance) == "no budget reached a threshold"
        seen = observations(instance)
    assert [one["action"] for one in seen] == ["soft", "warn", "freeze"]
    assert (seen[1]["spent_usd"], seen[1]["limit_usd"]) == ("0.00000085", "0.000001")
    assert seen[1]["budget"].startswith("tenant default, month")
    assert not (root / ".maestro" / "alerts").exists()  # nobody is to be told


def test_a_receiver_that_is_down_is_told_at_a_later_tick_and_then_never_again(
    repository: Path, root: Path, tree: BudgetTree, receiver: Receiver
) -> None:
    receiver.statuses = [503, 404, 404, 204]  # the first is tried twice within its tick
    spend(tree, 850, "a")
    with dg.DagsterInstance.ephemeral() as instance:
        tick(repository, root, instance)
        assert len(waiting(find_project(root))) == 2
        for _ in range(3):
            assert tick(repository, root, instance) == "no budget reached a threshold"
        assert len(observations(instance)) == 2
    assert waiting(find_project(root)) == []
    assert len(receiver.got) == 3 + 2
    told = {headers["webhook-id"] for headers, _ in receiver.got[-2:]}
    assert told == {headers["webhook-id"] for headers, _ in receiver.got}
    assert len(told) == 2
    for headers, body in receiver.got:
        text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        mac = hmac.new(b"0123456789abcdef01234567", text, hashlib.sha256).digest()
        assert headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()
    log = (root / ".maestro" / "alerts" / "deliveries.ndjson").read_text(encoding="utf-8")
    assert {json.loads(line)["id"] for line in log.splitlines()} == told
    assert len(log.splitlines()) == 2


# The webhook


def test_the_message_says_which_budget_and_how_it_stands(
    root: Path, tree: BudgetTree, receiver: Receiver
) -> None:
    spend(tree, 600, "a")
    project = find_project(root)
    assert [alert.action for alert in take_alerts(project, tree, DAY)] == ["soft"]
    assert send_alerts(project, patience=QUICK) == []
    value = json.loads(receiver.got[0][1])
    assert value["type"] == "maestro.budget-alert.v1"
    assert value["data"].pop("budget").startswith("tenant default, month")
    assert value["data"].pop("renews").endswith("-01T00:00:00Z")
    assert value["data"].pop("text").endswith("soft (0.0000006 of 0.0000005 USD are spent)")
    assert value["data"] == {
        "path": "default", "period": f"month:{DAY[:7]}", "action": "soft", "spent_usd": "0.0000006",
        "soft_usd": "0.0000005", "hard_usd": "0.000001", "tokens": 0, "tokens_limit": None,
    }  # fmt: skip


def test_a_death_after_an_alert_was_kept_loses_and_repeats_nothing(
    root: Path, tree: BudgetTree, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = find_project(root)
    spend(tree, 900, "a")
    with monkeypatch.context() as patch:
        patch.setattr("maestro_dagster.costs.budget_report.take_alert", _die)
        with pytest.raises(KeyboardInterrupt):
            take_alerts(project, tree, DAY)
    (kept,) = waiting(project)
    before = kept.read_bytes()
    spend(tree, 1, "b")  # meanwhile more was spent: what may have been sent stays as it is
    assert len(take_alerts(project, tree, DAY)) == 2
    assert kept.read_bytes() == before
    for _ in range(2):
        assert send_alerts(project, patience=QUICK) == []
    assert sorted(actions(receiver)) == ["downgrade", "soft"]


def _die(*_: Any) -> None:
    raise KeyboardInterrupt


def test_two_sensors_at_once_tell_each_alert_once(root: Path, receiver: Receiver) -> None:
    project, taken = find_project(root), []

    def look() -> None:
        mine = open_budgets(project)
        barrier.wait()
        taken.extend(take_alerts(project, mine, DAY))
        send_alerts(project, patience=QUICK)
        mine.counter.close()

    spender = open_budgets(project)
    spend(spender, 1000, "a")
    spender.counter.close()
    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(alert.action for alert in taken) == ["freeze", "soft"]
    assert sorted(actions(receiver)) == ["freeze", "soft"]


def test_one_that_is_refused_for_good_does_not_hold_up_the_others(
    root: Path, tree: BudgetTree, receiver: Receiver
) -> None:
    project = find_project(root)
    spend(tree, 850, "a")
    take_alerts(project, tree, DAY)
    receiver.statuses = [400, 204]
    (problem,) = send_alerts(project, patience=QUICK)
    assert "did not take an alert, which is tried again: the server answered 400" in problem
    assert "/hook" not in problem
    assert len(waiting(project)) == 1
    (problem,) = send_alerts(project, patience=QUICK, longest=-1)
    assert problem == "1 alerts wait for the next time"
    assert send_alerts(project, patience=QUICK) == []


def test_without_a_secret_nothing_is_sent_and_nothing_lost(
    root: Path, tree: BudgetTree, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = find_project(root)
    monkeypatch.delenv("MAESTRO_SECRET_COST_WEBHOOK")
    spend(tree, 600, "a")
    assert len(take_alerts(project, tree, DAY)) == 1
    (problem,) = send_alerts(project, patience=QUICK)
    assert "there is no secret to sign the webhook with" in problem
    assert receiver.got == []
    assert len(waiting(project)) == 1


def test_what_cannot_be_kept_is_not_taken(root: Path, tree: BudgetTree, receiver: Receiver) -> None:
    project = find_project(root)
    spend(tree, 600, "a")
    (project.home / "alerts").write_text("in the way", encoding="utf-8")
    with pytest.raises(CostError):
        take_alerts(project, tree, DAY)
    assert [alert.action for alert in find_alerts(tree, DAY)] == ["soft"]


# The command


def call(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["cost", "budget", *arguments])


def answer(*arguments: str) -> Any:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_command_shows_each_budget(root: Path, tree: BudgetTree) -> None:
    assert answer()["budgets"][0]["spent_usd"] == "0"
    spend(tree, 850, "a")
    tree.counter.settle(tree.accounts(DAY, "f"), "b", 0, 0, run_id="b", unknown=2)
    value = answer()
    assert list(value) == ["tenant", "project", "day", "budgets", "frozen"]
    (row,) = value["budgets"]
    shown = {name: row[name] for name in ("spent_usd", "left_usd", "percent", "actions", "frozen")}
    assert shown == {
        "spent_usd": "0.00000085", "left_usd": "0.00000015", "percent": "85.0", "actions": ["soft", "warn"],
        "frozen": None,
    }  # fmt: skip
    text = call().stdout
    assert row["name"] in text
    assert f"{row['name']}: 2 events without a price are in no sum" in text


def test_without_budgets_it_says_where_they_are_set(root: Path) -> None:
    (root / "resources" / "budgets.yaml").unlink()
    assert "resources/budgets.yaml" in call().stdout
    assert answer()["budgets"] == []


def test_a_node_is_frozen_and_thawed(root: Path, tree: BudgetTree) -> None:
    assert answer("freeze", "default/default", "--reason", "runs away") == {
        "path": "default/default", "frozen": True, "known": True, "replaced": None
    }  # fmt: skip
    with pytest.raises(CostError, match="runs away"):
        tree.open_run("f", "r").open_step("s").reserve("x", 1, 0, f"{DAY}T00:00:00.000000Z")
    assert "default/default is frozen since" in call().stdout
    (frozen,) = answer()["frozen"]
    assert (frozen["path"], frozen["reason"]) == ("default/default", "runs away")
    assert answer("thaw", "default/default")["was_frozen"] is True
    assert answer("thaw", "default/default")["was_frozen"] is False
    assert call("thaw", "default/default").stdout == "default/default was not frozen\n"
    assert answer()["frozen"] == []


@pytest.mark.parametrize("arguments", [("freeze", "other", "--reason", "x"), ("thaw", "other"), ("thaw", "")])
def test_a_node_of_somebody_else_is_refused(root: Path, arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert isinstance(result.exception, MaestroError)
    assert result.exception.error_code == "budget-unknown"
    assert not (root / ".maestro" / "budgets.sqlite").exists()


def test_a_freeze_needs_its_reason(root: Path) -> None:
    assert call("freeze", "default").exit_code == 2


def test_counters_that_are_gone_are_counted_anew_from_the_usage(root: Path, tree: BudgetTree) -> None:
    project = find_project(root)
    spend(tree, 1, "a")
    tree.counter.close()
    (project.home / "budgets.sqlite").unlink()
    now = f"{DAY}T00:00:00.000000Z"
    with Spool(project.spool).open_run("r") as writer:
        scope = UsageScope("default", "r", "f", "s", 1)
        writer.append([scope.make_event("llm", cost_nano=cost, occurred_at=now) for cost in (300, 45, None)])
    lost = call()
    assert isinstance(lost.exception, CostError)
    assert answer("recount")["accounts"] > 0
    (row,) = [row for row in answer()["budgets"] if row["name"].startswith("tenant default, month")]
    assert (row["spent_usd"], row["events_without_price"]) == ("0.000000345", 1)
    answer("recount")  # again: the same
    assert [one for one in answer()["budgets"] if one["name"] == row["name"]] == [row]


def test_a_shared_database_is_not_counted_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAESTRO_DATABASE", "postgresql://ann:hunter22@127.0.0.1:1/budgets")
    result = call("recount")
    assert isinstance(result.exception, CostError)
    assert result.exception.error_code == "budget-recount-shared"
    assert "hunter22" not in result.output
