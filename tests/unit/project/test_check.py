from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from maestro_dagster.events.inbox import Inbox
from maestro_dagster.events.interface import RepositoryEvent
from maestro_dagster.project.check import Finding, _check_forges, check_machine, check_project
from maestro_dagster.project.intake import open_inbox
from maestro_dagster.project.root import open_project
from maestro_dagster.project.scaffold import init_project


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return init_project(tmp_path_factory.mktemp("doctor") / "shop").root


@pytest.fixture
def project(pristine: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(pristine, tmp_path / "shop"))


def examine(root: Path, **environment: str) -> dict[str, Finding]:
    return {finding.check: finding for finding in check_project(open_project(root, environment), environment)}


def test_the_starter_has_no_error(project: Path) -> None:
    found = examine(project)
    assert {name: finding for name, finding in found.items() if finding.status == "error"} == {}
    assert len(found) == 17
    assert {finding.check for finding in check_machine()} == {"python", "git"}


def test_a_missing_key_is_found(project: Path) -> None:
    (project / ".maestro/keys/maestro.pem").unlink()
    assert examine(project)["key"].status == "error"
    assert examine(project)["key"].remedy


def test_a_broken_pack_is_found(project: Path) -> None:
    (project / "policies/budget/budget.rego").write_text("package maestro.budget\nallow := ")
    assert examine(project)["packs"].status == "error"


def test_no_packs_at_all_are_found(project: Path) -> None:
    (project / "policies").rename(project / "gone")
    assert examine(project)["packs"].status == "error"


def test_a_broken_flow_is_found(project: Path) -> None:
    (project / "assets/bad.yaml").write_text("name: [")
    finding = examine(project)["flows"]
    assert finding.status == "error"
    assert "bad.yaml" in finding.fact


def test_broken_rates_and_models_are_found(project: Path) -> None:
    (project / "resources/rates.yaml").write_text("nothing: here")
    (project / "resources/models.yaml").unlink()
    found = examine(project)
    assert (found["rates"].status, found["models"].status) == ("error", "error")


def test_a_webhook_without_its_secret_is_found(project: Path) -> None:
    (project / "resources/forges.yaml").write_text(
        "repositories: [{name: shop, forge: github, repository: acme/shop, clone: 'https://git.example/a/b', "
        "secrets: [SHOP, SHOP_BEFORE], token: TOKEN, api: 'https://git.example/api/v3'}]"
    )
    folder = project / ".maestro/secrets"
    folder.mkdir(mode=0o700, exist_ok=True)

    def write(name: str, text: str, mode: int = 0o600) -> Finding:
        (folder / name).write_text(text)
        (folder / name).chmod(mode)
        return _check_forges(open_project(project, {}))

    assert _check_forges(open_project(project, {})).status == "error"
    assert write("SHOP", "a" * 32).status == "warning"  # deliveries come in, signed with this one
    assert write("SHOP_BEFORE", "short").fact == "shop: there is no secret TOKEN"
    assert write("TOKEN", "t").fact.startswith("shop: the secret SHOP_BEFORE is shorter")
    assert write("SHOP_BEFORE", "b" * 32).status == "ok"
    assert write("SHOP", "a" * 32, 0o644).remedy == f"chmod 600 {folder / 'SHOP'}"
    write("SHOP", "a" * 32)
    forges = project / "resources/forges.yaml"
    forges.write_text(forges.read_text().replace("https:", "http:"))
    assert examine(project)["forges"].status == "error"  # the token would be read on the way
    forges.write_text("repositories: [{name: shop}]")
    assert examine(project)["forges"].status == "error"


def test_forges_that_are_gone_are_found_where_webhooks_came(project: Path) -> None:
    path = project / "resources/forges.yaml"
    path.unlink()
    assert _check_forges(open_project(project, {})).status == "ok"
    inbox = open_inbox(open_project(project, {}))
    event = RepositoryEvent("event-0001", "/r", "a" * 40, "b" * 40, "refs/heads/main", 1.0)
    inbox.accept([event])
    assert _check_forges(open_project(project, {})).status == "ok", "pushes of a hook need no forge"
    inbox.accept([replace(event, event_id="webhook-0001", source="webhook")])
    inbox.close()
    found = _check_forges(open_project(project, {}))
    assert (found.status, "not there" in found.fact) == ("error", True)
    path.write_text("repositories: []")
    assert _check_forges(open_project(project, {})).status == "ok"


def test_a_damaged_journal_is_found_and_left_alone(project: Path) -> None:
    journal = project / ".maestro/journal.sqlite"
    assert examine(project)["journal"].fact == "no run yet"
    journal.write_bytes(b"no database at all" * 100)
    assert examine(project)["journal"].status == "error"
    assert journal.read_bytes() == b"no database at all" * 100
    journal.unlink()
    connection = sqlite3.connect(journal)
    connection.execute("CREATE TABLE run (x)")
    connection.execute("INSERT INTO run VALUES (zeroblob(100000))")
    connection.commit()
    connection.close()
    assert examine(project)["journal"].fact == "the journal is sound, 1 runs"


@pytest.mark.parametrize("name", ["inbox", "outbox"])
def test_a_damaged_inbox_is_found_and_left_alone(project: Path, name: str) -> None:
    assert examine(project)["inbox"].fact == "no event yet"
    path = project / ".maestro" / "inbox" / f"{name}.sqlite"
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 100)
    found = examine(project)["inbox"]
    assert (found.status, found.remedy) == ("error", "restore it with its -wal file from a backup")
    assert found.fact == f"the {name} is damaged: file is not a database ({path})"
    assert path.read_bytes() == b"no database at all" * 100
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name]


def test_a_sound_inbox_says_how_much_waits(project: Path) -> None:
    path = project / ".maestro" / "inbox" / "inbox.sqlite"
    inbox = Inbox(path.parent, path)
    inbox.accept(
        [RepositoryEvent("event-0001", "/x.git", "0" * 40, "a" * 40, "refs/heads/main", 1.0, "webhook")]
    )
    inbox.close()
    assert examine(project)["inbox"].fact == "the inbox is sound, 1 events wait"


def test_a_store_that_cannot_be_written_is_found(project: Path) -> None:
    (project / "blocked").write_text("a file where a folder should be")
    found = examine(project, MAESTRO_ARTIFACT_STORE="blocked/store")
    assert found["store"].status == "error"


def test_stale_advisories_are_found(project: Path) -> None:
    folder = project / "advisories"
    folder.mkdir(exist_ok=True)
    for path in folder.rglob("*.json"):
        path.unlink()
    assert examine(project)["advisories"].status == "warning"
    record = folder / "A-1.json"
    record.write_text("{}")
    assert "no age limit" in examine(project)["advisories"].fact
    assert examine(project, MAESTRO_ADVISORIES_MAX_AGE_DAYS="30")["advisories"].status == "ok"
    old = time.time() - 40 * 86400
    os.utime(record, (old, old))
    assert examine(project, MAESTRO_ADVISORIES_MAX_AGE_DAYS="30")["advisories"].status == "error"


def test_a_misspelled_variable_is_found(project: Path) -> None:
    finding = examine(project, MAESTRO_TENNANT="x", MAESTRO_SECRET_TOKEN="y")["settings"]
    assert finding.status == "warning"
    assert "MAESTRO_TENANT" in finding.remedy


def test_little_space_is_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, status in ((50 * 1024**2, "error"), (500 * 1024**2, "warning"), (5 * 1024**3, "ok")):
        monkeypatch.setattr("shutil.disk_usage", lambda _path, free=free: SimpleNamespace(free=free))
        assert examine(project)["space"].status == status


def test_another_dagster_home_is_found(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "elsewhere"))
    assert examine(project)["dagster"].status == "warning"
