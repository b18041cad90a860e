"""`maestro verify` and `maestro evidence export`, as a person or a script calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.cli.main import run_command
from maestro_dagster.evidence.archive import read_archive
from maestro_dagster.evidence.bundle import build_bundle
from maestro_dagster.evidence.interface import RunRecord
from maestro_dagster.evidence.key import KeySigner, load_signer, make_key

Record = Callable[..., RunRecord]
Call = Callable[..., tuple[int, Any]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: str | Path) -> tuple[int, Any]:
        code = run_command([*map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is in no project."""
    monkeypatch.chdir(tmp_path)
    for name in ("MAESTRO_PROJECT", "MAESTRO_HOME", "MAESTRO_TRUSTED_KEYS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def bundle(outside: Path, record: Record, signer: KeySigner) -> Path:
    (outside / "ev.zip").write_bytes(build_bundle(record(), signer))
    (outside / "pub.pem").write_bytes(signer.public_pem)
    return outside / "ev.zip"


@pytest.fixture
def project(outside: Path, record: Record) -> Path:
    root = outside / "shop"
    (root / ".maestro" / "evidence").mkdir(parents=True)
    (root / "pyproject.toml").write_text("[tool.maestro]\n")
    make_key(root / ".maestro" / "keys")
    data = build_bundle(record(), load_signer(root / ".maestro" / "keys"))
    (root / ".maestro" / "evidence" / "run-01.zip").write_bytes(data)
    return root


def test_verify(call: Call, bundle: Path) -> None:
    code, told = call("verify", bundle, "--key", "pub.pem")
    assert code == 0
    assert (told["ok"], told["claims"], told["problems"]) == (True, 3, [])


def test_verify_refuses(call: Call, bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"\x01")
    code, told = call("verify", bundle, "--key", "pub.pem")
    assert (code, told["ok"]) == (1, False)
    assert told["problems"][0]["code"] == "archive-not-canonical"


def test_no_key_no_project(call: Call, bundle: Path) -> None:
    code, told = call("verify", bundle)
    assert (code, told["error"]["code"]) == (2, "key-missing")
    assert "--key" in told["error"]["remedy"]
    assert call("verify", bundle, "--key", "none.pem")[0] == 2


def test_several_keys(call: Call, bundle: Path, stranger: KeySigner) -> None:
    Path("other.pem").write_bytes(stranger.public_pem)
    assert call("verify", bundle, "--key", "other.pem")[0] == 1
    assert call("verify", bundle, "--key", "other.pem", "--key", "pub.pem")[0] == 0


def test_the_projects_own_key_is_trusted(
    call: Call, project: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    assert call("verify", ".maestro/evidence/run-01.zip")[0] == 0
    code, told = call("verify", bundle)
    assert (code, told["problems"][0]["code"]) == (1, "signer-unknown")
    Path("pyproject.toml").write_text('[tool.maestro]\ntrusted_keys = ["../pub.pem"]\n')
    assert call("verify", bundle)[0] == 0
    assert call("verify", ".maestro/evidence/run-01.zip")[0] == 0


def test_a_project_without_a_key(call: Call, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").mkdir()
    Path("empty/pyproject.toml").write_text("[tool.maestro]\n")
    monkeypatch.chdir("empty")
    assert call("verify", bundle)[0] == 2


@pytest.mark.parametrize("name", ["none.zip", "."])
def test_files_that_cannot_be_read(call: Call, bundle: Path, name: str) -> None:
    code, told = call("verify", name, "--key", "pub.pem")
    assert code == 1
    assert told["error"]["code"] in ("bundle-missing", "bundle-unreadable")
    assert told["error"]["remedy"]


def test_a_keyless_judgement_needs_all_three(call: Call, bundle: Path) -> None:
    for options in (
        ("--identity", "a"),
        ("--issuer", "b"),
        ("--trusted-root", "none.json"),
        ("--trusted-root", "none.json", "--identity", "a"),
        ("--trusted-root", "none.json", "--identity", "a", "--issuer", "b"),
        ("--trusted-root", "none.json", "--identity", "a", "--issuer", "b", "--key", "pub.pem"),
    ):
        assert call("verify", bundle, *options)[0] == 2, options


def test_export(call: Call, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    code, told = call("evidence", "export", "run-01", "-o", "out.zip")
    assert code == 0
    stored = Path(".maestro/evidence/run-01.zip").read_bytes()
    assert Path("out.zip").read_bytes() == stored
    assert told["size"] == len(stored)
    assert call("verify", "out.zip")[0] == 0
    code, told = call("evidence", "export", "run-01", "--claim", "parse")
    assert (code, told["file"]) == (0, "run-01-parse.proof.json")
    assert call("verify", "run-01-parse.proof.json")[1]["claims"] == 1


def test_export_of_what_is_not_there(call: Call, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    assert call("evidence", "export", "run-02")[1]["error"]["code"] == "bundle-missing"
    assert call("evidence", "export", "../evidence/run-01")[1]["error"]["code"] == "bundle-missing"
    assert call("evidence", "export", "run-01", "--claim", "x")[1]["error"]["code"] == "claim-missing"
    code, told = call("evidence", "export", "run-01", "-o", "no/such/folder.zip")
    assert (code, told["error"]["code"]) == (1, "export-unwritable")
    assert sorted(path.name for path in project.iterdir()) == [".maestro", "pyproject.toml"]


def test_a_single_statement_about_a_file(call: Call, bundle: Path, record: Record, signer: KeySigner) -> None:
    files = read_archive(bundle.read_bytes())
    Path("receipt.json").write_bytes(files["receipt.sigstore.json"])
    Path("flow.json").write_bytes(files["flow.json"])
    Path("other.json").write_bytes(b"{}")
    assert call("verify", "receipt.json", "--artifact", "flow.json", "--key", "pub.pem")[0] == 0
    code, told = call("verify", "receipt.json", "--artifact", "other.json", "--key", "pub.pem")
    assert (code, told["problems"][0]["code"]) == (1, "subject-mismatch")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, maestro_dagster.cli.verify, maestro_dagster.cli.evidence;"
        "print([m for m in ('cryptography', 'dagster', 'sigstore', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
