"""`maestro cost prices` and `maestro cost allocate` on a project of their own."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from costs_support import make_event

from maestro_dagster.cli.cost import command
from maestro_dagster.costs.spool import Spool
from maestro_dagster.errors import CostError, MaestroError
from maestro_dagster.llm import price_source
from maestro_dagster.llm.price_source import read_list

LIST = {
    "good": {"mode": "chat", "litellm_provider": "acme", "input_cost_per_token": 1e-06,
             "output_cost_per_token": 2e-06},
    "picture": {"mode": "image_generation", "litellm_provider": "acme", "input_cost_per_token": 1e-06},
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Path:
    root = tmp_path / "project"
    shutil.copytree(
        repository / "resources", root / "resources", ignore=shutil.ignore_patterns("__pycache__")
    )
    (root / "pyproject.toml").write_text("[tool.maestro]\n")
    (root / "list.json").write_text(json.dumps(LIST))
    monkeypatch.setenv("MAESTRO_PROJECT", str(root))
    monkeypatch.chdir(root)
    return root


def call(*arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(command, arguments, standalone_mode=False, catch_exceptions=False)
    assert (result.return_value or 0) == exit_code, result.output
    return result


def read(*arguments: str, exit_code: int = 0) -> Any:
    return json.loads(call(*arguments, "--json", exit_code=exit_code).stdout)


def refused(*arguments: str) -> MaestroError:
    with pytest.raises(MaestroError) as caught:
        call(*arguments)
    return caught.value


def change_list(root: Path, **models: Any) -> None:
    (root / "list.json").write_text(json.dumps(LIST | models))


def test_every_rate_and_model_is_listed_with_the_line_that_says_so(project: Path) -> None:
    value = read("prices", "list", "--day", "2026-03-01")
    units = {row["unit"]: row for row in value["rates"]}
    assert units["cpu_second"] == {
        "unit": "cpu_second", "usd": "0.0000125", "price": "rates@2020-01-01#cpu_second",
    }  # fmt: skip
    assert units["network_gb_in"]["usd"] == "0"
    models = {row["name"]: row for row in value["models"]}
    assert models["gpt-4o-mini"]["usd_per_million"] == {"input": "0.15", "output": "0.6", "cached": "0.075"}
    assert models["extractive"]["usd_per_million"] == {"free": True}
    text = call("prices", "list").output
    assert "models@2026-01-01#gpt-4o-mini" in text
    before = read("prices", "list", "--day", "2019-01-01")["rates"]
    assert {row["usd"] for row in before} == {None}
    assert "unknown" in call("prices", "list", "--day", "2019-01-01").output


def test_a_refresh_writes_a_dated_snapshot_and_says_what_changed(project: Path) -> None:
    first = read("prices", "refresh", "--from", "list.json", "--day", "2026-01-01")
    assert (first["written"], first["added"], first["models"], first["source"]) == (
        "resources/prices/2026-01-01.json", ["good"], 1, "list.json",
    )  # fmt: skip
    change_list(project, good={**LIST["good"], "input_cost_per_token": 3e-06}, more=LIST["good"])
    text = call("prices", "refresh", "--from", "list.json", "--day", "2026-02-01").output
    assert "compared with the snapshot of 2026-01-01" in text
    assert "added 1: more" in text
    assert [line.split() for line in text.splitlines() if line.startswith("good")] == [
        ["good", "input", "1", "3"]
    ]
    old, new = (
        read("prices", "list", "good", "--day", day)["models"][0] for day in ("2026-01-31", "2026-02-01")
    )
    assert (old["usd_per_million"]["input"], old["price"]) == ("1", "prices@2026-01-01#good")
    assert (new["usd_per_million"]["input"], new["price"]) == ("3", "prices@2026-02-01#good")


def test_nothing_is_written_when_nothing_changed_or_when_it_is_a_rehearsal(project: Path) -> None:
    assert read("prices", "refresh", "--from", "list.json", "--dry-run")["written"] is None
    assert not (project / "resources" / "prices").exists()
    call("prices", "refresh", "--from", "list.json", "--day", "2026-01-01")
    again = read("prices", "refresh", "--from", "list.json", "--day", "2026-02-01")
    assert (again["written"], again["compared_with"]) == (None, "2026-01-01")
    assert len(list((project / "resources" / "prices").iterdir())) == 1


def test_a_snapshot_is_never_edited_and_no_day_is_priced_anew(project: Path) -> None:
    call("prices", "refresh", "--from", "list.json", "--day", "2026-02-01")
    change_list(project, more=LIST["good"])
    assert (
        refused("prices", "refresh", "--from", "list.json", "--day", "2026-02-01").error_code
        == "prices-exist"
    )
    assert refused("prices", "refresh", "--from", "list.json", "--day", "2026-01-01").error_code == "usage"


def test_the_installed_list_is_read_without_importing_it(project: Path) -> None:
    value = read("prices", "refresh", "--day", "2026-01-01")
    assert value["models"] > 1000
    assert value["source"].startswith("litellm@")
    assert "gpt-4o" in value["added"]
    text = (project / "resources" / "prices" / "2026-01-01.json").read_text()
    assert (
        '"gpt-4o": {"provider": "openai", "price": {"input": "2.5", "output": "10", "cached": "1.25"' in text
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "price-list-invalid"),
        ("[]", "price-list-invalid"),
        ('{"m": {"mode": "chat"}}', "price-list-invalid"),
    ],
)
def test_a_list_that_says_nothing_changes_nothing(project: Path, text: str, code: str) -> None:
    (project / "list.json").write_text(text)
    assert refused("prices", "refresh", "--from", "list.json").error_code == code
    assert refused("prices", "refresh", "--from", "no-such-file").error_code == "price-list-missing"
    assert not (project / "resources" / "prices").exists()


def test_check_finds_what_has_no_price(project: Path) -> None:
    assert read("prices", "check")["ok"] is True
    rates = project / "resources" / "rates.yaml"
    rates.write_text(rates.read_text().replace('    gb_second: "0.0000014"\n', ""))
    models = project / "resources" / "models.yaml"
    models.write_text(models.read_text() + "\n  - {name: mystery, provider: nobody}\n")
    value = read("prices", "check", exit_code=1)
    wrong = [row["fact"] for row in value["checks"] if row["status"] == "error"]
    assert len(wrong) == 2
    assert wrong[0].startswith("gb_second has no price on ")
    assert wrong[1] == "mystery has no price"


def test_check_reads_every_snapshot(project: Path) -> None:
    call("prices", "refresh", "--from", "list.json", "--day", "2026-01-01")
    call("prices", "check")
    path = project / "resources" / "prices" / "2026-01-01.json"
    path.write_text(path.read_text().replace('"1"', "1"))
    assert "decimal string" in call("prices", "check", exit_code=1).output


def test_check_warns_of_another_price_than_the_snapshots(project: Path) -> None:
    change_list(project, **{"gpt-4o-mini": {**LIST["good"], "litellm_provider": "openai"}})
    call("prices", "refresh", "--from", "list.json", "--day", "2026-01-01")
    rows = [row for row in read("prices", "check")["checks"] if row["status"] == "warning"]
    assert any(
        "gpt-4o-mini has another price in prices@2026-01-01#gpt-4o-mini" in row["fact"] for row in rows
    )


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", "/list.json")
                self.end_headers()
                return
            data = json.dumps(LIST).encode()
            self.send_response(200 if self.path.startswith("/list") else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    found = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def near(project: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.maestro]\nnetwork_allow_private = ["127.0.0.1"]\n')


@pytest.mark.parametrize(
    "url",
    ["https://169.254.169.254/x", "https://10.0.0.1/x", "http://localhost:9/x", "https://[::1]/x", "https://[fd00::1]/x",
     "https://168.63.129.16/x", "http://127.0.0.1:9/x", "https://[::ffff:10.0.0.1]/x"],
)  # fmt: skip
def test_a_list_is_not_fetched_from_a_private_address(project: Path, url: str) -> None:
    error = refused("prices", "refresh", "--from", url)
    assert error.error_code == "price-list-address"
    assert "network_allow_private" in error.remedy


def test_a_name_that_moves_to_a_private_address_meanwhile_is_refused(
    server: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def check(address: str, host: str) -> None:
        seen.append(address)
        if len(seen) > 1:  # what the connection itself asks
            raise CostError("moved", code="price-list-address")

    with pytest.raises(CostError, match="moved"):
        read_list(f"{server}/list.json", check)
    assert seen == ["127.0.0.1"] * 2


def test_the_wrong_entry_of_a_list_is_named(project: Path) -> None:
    change_list(project, odd=["no", "price"])
    error = refused("prices", "refresh", "--from", "list.json")
    assert (error.error_code, "'odd'" in error.fact) == ("price-list-invalid", True)
    assert not (project / "resources" / "prices").exists()


def test_a_file_that_is_not_utf8_is_said_to_be_so(project: Path) -> None:
    (project / "resources" / "shared.yaml").write_bytes(b"\xff\xfev\x00")
    assert "not UTF-8" in refused("allocate", "--month", "2026-03").fact
    text = SHARED.replace('"10"', '"1000000000000"')
    (project / "resources" / "shared.yaml").write_text(text)
    assert "at most 999999999999.999999999" in refused("allocate", "--month", "2026-03").fact


@pytest.mark.usefixtures("near")
def test_a_list_is_fetched_and_its_url_keeps_no_secret(project: Path, server: str) -> None:
    value = read("prices", "refresh", "--from", f"{server}/list.json?key=sesame")
    assert value["source"] == f"{server}/list.json"
    (path,) = (project / "resources" / "prices").iterdir()
    assert "sesame" not in path.read_text()


@pytest.mark.usefixtures("near")
def test_a_list_that_cannot_be_fetched_or_moves_away_is_refused(project: Path, server: str) -> None:
    for path in ("none", "moved"):
        error = refused("prices", "refresh", "--from", f"{server}/{path}?key=sesame")
        assert error.error_code == "price-list-missing"
        assert "sesame" not in str(error)


@pytest.mark.parametrize(
    "url",
    ["http://example.org/list.json", "https://user:word@example.org/x", "ftp://example.org/x", "file:///etc/passwd",
     "https://", "https://example.org:99999/x", "http://127.0.0.1.example.org/x"],
)  # fmt: skip
def test_a_list_comes_over_https_or_from_this_machine(url: str) -> None:
    with pytest.raises(MaestroError) as caught:
        read_list(url, lambda _address, _host: None)
    assert caught.value.error_code == "price-list-url"
    assert "word" not in str(caught.value)


def test_a_list_has_a_limit(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price_source, "LARGEST", 10)
    assert refused("prices", "refresh", "--from", "list.json").error_code == "price-list-large"


SHARED = """
version: 1
currency: USD
shared:
  - {name: cluster, amount: "10", since: "2026-03", until: "2026-03", key: cost, over: flow}
  - {name: licence, amount: "1", since: "2026-03", key: tokens}
"""


def test_shared_cost_of_a_month_is_divided_by_its_usage(project: Path) -> None:
    (project / "resources" / "shared.yaml").write_text(SHARED)
    spool = Spool(project / ".maestro" / "spool")
    with spool.open_run("run-1") as writer:
        writer.append([make_event(event_id="1", cost_nano=5), make_event(event_id="2", cost_nano=None)])
    value = read("allocate", "--month", "2026-03")
    cluster, licence = value["lines"]
    assert [(row["member"], row["flow"], row["usd"]) for row in cluster["rows"]] == [
        ("tenant/default/flow", "flow", "10")
    ]
    assert [(row["member"], row["usd"]) for row in licence["rows"]] == [("(unallocated)", "1")]
    assert (value["total_usd"], value["unallocated_usd"], value["unknown_events"]) == ("11", "1", 1)
    text = call("allocate", "--month", "2026-03").output
    assert "total 11 USD, of it unallocated 1 USD" in text
    assert "1 events have no price" in text
    assert [line["line"] for line in read("allocate", "--month", "2026-04")["lines"]] == ["licence"]
    assert "no line for 2026-02" in call("allocate", "--month", "2026-02").output
    assert refused("allocate", "--month", "2026-3").error_code == "usage"
