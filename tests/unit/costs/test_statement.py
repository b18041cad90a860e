"""Statements of exports, signed by a project's key and verified by it; the command line around them."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from costs_support import DAY, make_event

from maestro_dagster.cli.main import run_command
from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.lake import open_lake
from maestro_dagster.costs.spool import Spool
from maestro_dagster.costs.statement import FORMATS, PREDICATE_TYPE, read_statement
from maestro_dagster.errors import CostError
from maestro_dagster.evidence.key import load_signer, make_key
from maestro_dagster.evidence.trust import KeyTrust
from maestro_dagster.project.export import export_period, is_export_statement, sign_export, verify_export


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with usage in the lake and some in the spool only."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").write_text("[tool.maestro]\n")
    make_key(root / ".maestro" / "keys")
    spool, lake = Spool(root / ".maestro" / "spool"), open_lake(root / ".maestro" / "lake")
    with spool.open_run("run") as writer:
        writer.append([make_event("run", event_id=str(number), cost_nano=number) for number in range(1, 11)])
        writer.append([make_event("run", event_id="unknown", cost_nano=None, tokens_in=9)])
    compact_day(spool, lake, DAY, lambda _: True)
    with spool.open_run("later") as writer:
        writer.append([make_event("later", cost_nano=100, occurred_at="2026-03-02T00:00:00.000000Z")])
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """(exit code, stdout, stderr) of the command line."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(list(arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def export(project: Path, form: str) -> tuple[Path, bytes, bytes]:
    signer = load_signer(project / ".maestro" / "keys")
    lake, spool = open_lake(project / ".maestro" / "lake"), Spool(project / ".maestro" / "spool")
    done = export_period(lake, project / f"u{FORMATS[form]}", form, signer, spool=spool)
    assert done.bundle is not None
    return done.path, done.bundle, signer.public_pem


@pytest.mark.parametrize("form", FORMATS)
def test_a_signed_export_verifies_and_is_the_same_again(form: str, project: Path) -> None:
    path, bundle, pem = export(project, form)
    report, statement = verify_export(bundle, path, KeyTrust([pem]))
    assert report.ok
    assert statement is not None
    assert (statement.sum_nano, statement.events, statement.unknown) == (155, 12, 1)
    assert statement.left_out == ({"tokens_in": 9} if form.startswith("focus") else {})
    assert read_statement(statement.to_json()) == statement
    assert export(project, form)[1] == bundle


def test_other_bytes_other_figures_and_other_keys_are_refused(project: Path, tmp_path: Path) -> None:
    path, bundle, pem = export(project, "csv")
    _, statement = verify_export(bundle, path, KeyTrust([pem]))
    assert statement is not None
    changed = tmp_path / "changed.csv"
    changed.write_bytes(path.read_bytes().replace(b"0.000000010", b"0.000000011"))
    report, _ = verify_export(bundle, changed, KeyTrust([pem]))
    assert [problem.code for problem in report.problems] == ["digest-mismatch"]
    signer = load_signer(project / ".maestro" / "keys")
    for lie in (
        replace(statement, sum_nano=154), replace(statement, rows=13), replace(statement, unknown=0)
    ):  # fmt: skip
        report, _ = verify_export(sign_export(lie, signer), path, KeyTrust([pem]))
        assert [problem.code for problem in report.problems] == ["sum-mismatch"]
    make_key(tmp_path / "other")
    other = load_signer(tmp_path / "other")
    assert verify_export(bundle, path, KeyTrust([other.public_pem]))[0].problems[0].code == "signer-unknown"
    report, nothing = verify_export(bundle[:-5] + b"A" + bundle[-4:], path, KeyTrust([pem]))
    assert not report.ok
    assert nothing is None
    assert verify_export(bundle, tmp_path / "missing", KeyTrust([pem]))[0].problems[0].code == (
        "artifact-unreadable"
    )


def test_a_statement_of_another_shape_is_none(project: Path) -> None:
    path, bundle, pem = export(project, "parquet")
    _, statement = verify_export(bundle, path, KeyTrust([pem]))
    assert statement is not None
    good = statement.to_json()
    changes: list[tuple[tuple[str, ...], Any]] = [
        (("rows",), "12"), (("rows",), -1), (("rows",), True), (("format",), "xls"),
        (("digest",), "sha256:0"), (("sum_usd",), 1.5), (("sum_usd",), "1.50"), (("period",), None),
        (("period", "last_day"), "2027-01-01"), (("sources",), [{}]), (("left_out",), []), (("more",), 1),
    ]  # fmt: skip
    for keys, value in changes:
        wrong = copy.deepcopy(good)
        inner = wrong
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        with pytest.raises(CostError) as refused:
            read_statement(wrong)
        assert refused.value.error_code == "statement-invalid", keys
    with pytest.raises(CostError):
        read_statement({})
    assert not is_export_statement(b"{}")
    assert not is_export_statement(b"PK\x03\x04")


def test_the_command_writes_signs_and_verifies(project: Path, call: Any) -> None:
    code, out, err = call("cost", "export", "--format", "focus", "-o", "m.parquet", "--json")
    told = json.loads(out)
    assert (code, told["sum_usd"], told["events"], told["events_without_price"]) == (0, "0.000000155", 12, 1)
    assert (told["first_day"], told["last_day"]) == (DAY, "2026-03-02")
    assert "left out: 1 events without a price (9 tokens_in)" in err
    signed = json.loads(Path("m.parquet.sigstore.json").read_text())
    assert signed["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    key = str(project / ".maestro" / "keys" / "maestro.pub.pem")
    for arguments in (("--artifact", "m.parquet"), ("--key", key)):
        code, out, _ = call("verify", "m.parquet.sigstore.json", *arguments, "--json")
        assert (code, json.loads(out)["export"]["sum_usd"]) == (0, "0.000000155")
    Path("m.parquet").write_bytes(b"other")
    code, out, _ = call("verify", "m.parquet.sigstore.json", "--artifact", "m.parquet")
    assert code == 1
    assert "digest-mismatch" in out


def test_an_export_tells_one_period_and_may_go_unsigned(project: Path, call: Any) -> None:
    code, out, _ = call(
        "cost", "export", "--format", "csv", "-o", "u.csv", "--since", "2026-03-02", "--no-sign", "--json"
    )
    told = json.loads(out)
    assert (code, told["rows"], told["sum_usd"], told["statement"]) == (0, 1, "0.0000001", None)
    assert not Path("u.csv.sigstore.json").exists()
    shutil.rmtree(project / ".maestro" / "keys")
    code, out, _ = call("cost", "export", "--format", "csv", "-o", "v.csv", "--json")
    assert (code, "--no-sign" in json.loads(out)["error"]["remedy"]) == (2, True)
    assert not Path("v.csv").exists()


def test_shared_costs_of_whole_months_are_appended_and_named(project: Path, call: Any) -> None:
    (project / "resources").mkdir()
    (project / "resources" / "shared.yaml").write_text(
        "version: 1\ncurrency: USD\nshared:\n"
        '  - {name: rent, amount: "100", since: "2026-01", key: cost, description: Rent}\n'
    )
    base = ("cost", "export", "--format", "focus", "-o", "m.parquet", "--since", "2026-03-01", "--shared")
    code, out, _ = call(*base, "--until", "2026-03-31", "--json")
    told = json.loads(out)
    assert (code, told["sum_usd"]) == (0, "100.000000155"), out
    assert told["charges"] == {"rows": 1, "sum_usd": "100"}
    assert call("verify", "m.parquet.sigstore.json")[0] == 0
    code, out, _ = call(*base, "--until", "2026-03-30", "--json")
    assert json.loads(out)["charges"]["rows"] == 0
    assert call(*base)[0] == 2


def test_a_webhook_without_a_secret_or_by_http_writes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, call: Any
) -> None:
    base = ("cost", "export", "--format", "csv", "-o", "u.csv", "--json")
    code, out, _ = call(*base, "--webhook", "https://example.com/")
    assert json.loads(out)["error"]["code"] == "webhook-secret"
    monkeypatch.setenv("MAESTRO_SECRET_COST_WEBHOOK", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    code, out, _ = call(*base, "--webhook", "http://example.com/")
    assert json.loads(out)["error"]["code"] == "webhook-url"
    code, out, _ = call(*base, "--attach")
    assert (code, json.loads(out)["error"]["code"]) == (2, "usage")
    assert not Path("u.csv").exists()


def test_the_predicate_type_is_our_own_and_never_changes() -> None:
    assert PREDICATE_TYPE == "urn:maestro:cost-export:v1"
