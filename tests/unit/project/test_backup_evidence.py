"""A lost bundle is told by every backup, stops none, and comes back out of an older one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from maestro_dagster.cli.backup import command
from maestro_dagster.errors import MaestroError
from maestro_dagster.evidence.store import EvidenceStore
from maestro_dagster.objects.bucket import Bucket
from maestro_dagster.project.backup import back_up
from maestro_dagster.project.restore import restore
from maestro_dagster.project.root import Project, open_project

HARM = ["lose", "change"]


@pytest.fixture
def target(tmp_path: Path) -> str:
    return str(tmp_path / "backups")


def harm_bundle(project: Project, harm: str) -> bytes:
    path = project.evidence / "r0.zip"
    data = path.read_bytes()
    path.unlink()
    if harm == "change":
        path.write_bytes(data + b"\0")
    return data


@pytest.mark.parametrize("harm", HARM)
def test_a_lost_bundle_is_named_signed_and_told_again(
    used: Project, target: str, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm_bundle(used, harm)
    monkeypatch.chdir(used.root)
    said = CliRunner().invoke(command, [target, "--json"], standalone_mode=False)
    told = json.loads(said.stdout)
    assert (said.return_value, told["lost"], told["runs"], told["bundles"]) == (1, ["r0"], 2, 1)
    assert "evidence of the run r0 is missing" in said.stderr
    key = used.home.rename(used.root / "lost") / "keys" / "maestro.pub.pem"
    for check in (True, False):
        done = restore(used, target, keys=[key], check=check)
        assert (done.lost, done.receipts, done.open_runs) == (("r0",), 1, 0)
    assert back_up(open_project(used.root, {"MAESTRO_HOME": str(used.root / "lost")}), target).lost == ("r0",)


def test_a_manifest_cannot_hide_a_bundle_as_lost(used: Project, target: str) -> None:
    """What is said to be lost has to be what the journal knows and the backup lacks."""
    from dataclasses import replace

    from maestro_dagster.artifacts.store import open_store
    from maestro_dagster.evidence.dsse import read_envelope
    from maestro_dagster.evidence.key import load_signer
    from maestro_dagster.project.backup_statement import SUFFIX, read_manifest, read_predicate, sign_manifest
    from maestro_dagster.project.backup_target import open_statements

    report = back_up(used, target)
    about = read_predicate(read_envelope(open_statements(target).read(report.id)).payload)
    manifest = read_manifest(open_store(target).read(about["manifest"]), about)
    for lost in ({"r7": "sha256:" + "0" * 64}, {"r0": "sha256:" + "0" * 64}):
        wrong = replace(
            manifest,
            lost=lost,
            entries=tuple(each for each in manifest.entries if (each.part, each.path) != ("evidence", "r0")),
        )
        open_store(target).put_bytes(wrong.encode(), "application/json")
        path = Path(target, "backups", report.id + SUFFIX)
        path.write_bytes(sign_manifest(wrong, load_signer(used.keys)))
        with pytest.raises(MaestroError) as caught:
            restore(used, target, check=True)
        assert caught.value.error_code == "backup-malformed"


@pytest.fixture
def shared(used: Project, s3_bucket: str) -> Project:
    """Evidence lies in a bucket, this home has copies."""
    for path in used.evidence.glob("*.zip"):
        assert Bucket(f"{s3_bucket}/evidence").create(path.name, path.read_bytes())
    return open_project(used.root, {"MAESTRO_EVIDENCE": f"{s3_bucket}/evidence"})


def store_of(project: Project) -> EvidenceStore:
    return EvidenceStore(project.evidence, project.evidence_url)


def test_what_the_bucket_lacks_is_put_back_from_a_copy(shared: Project, target: str) -> None:
    bucket = Bucket(str(shared.evidence_url))
    data = bucket.read("r0.zip")
    bucket.remove("r0.zip")
    report = back_up(shared, target)
    assert (report.lost, report.put_back, report.bundles) == ((), ("r0",), 2)
    assert bucket.read("r0.zip") == data
    assert back_up(shared, target).put_back == ()


def test_what_the_bucket_has_changed_is_told_and_kept_from_a_copy(shared: Project, target: str) -> None:
    bucket = Bucket(str(shared.evidence_url))
    bucket.remove("r0.zip")
    assert bucket.create("r0.zip", b"other")
    report = back_up(shared, target)
    assert (report.lost, report.put_back, report.bundles) == (("r0",), (), 2)
    assert bucket.read("r0.zip") == b"other"
    (shared.evidence / "r0.zip").unlink()
    report = back_up(shared, target)
    assert (report.lost, report.bundles) == (("r0",), 1)
    assert restore(shared, target, check=True).lost == ("r0",)


@pytest.mark.parametrize("harm", HARM)
def test_one_bundle_comes_back_out_of_a_backup(used: Project, target: str, harm: str) -> None:
    from maestro_dagster.project.restore_evidence import restore_evidence

    older = back_up(used, target)
    data = harm_bundle(used, harm)
    back_up(used, target)

    def fetch(run_id: str, backup: str | None = None) -> str:
        return restore_evidence(used, target, run_id, backup=backup).backup

    def fault(call: Callable[[], object]) -> str:
        with pytest.raises(MaestroError) as caught:
            call()
        return caught.value.error_code

    if harm == "change":
        assert fault(lambda: fetch("r0", older.id)) == "evidence-conflict"
        (used.evidence / "r0.zip").unlink()
    assert fetch("r0") == older.id  # the newest that has it
    assert (used.evidence / "r0.zip").read_bytes() == data
    assert fetch("r0") == older.id  # there already: nothing to do
    assert fault(lambda: fetch("r9")) == "run-unknown"
    (used.evidence / "r1.zip").unlink()
    assert back_up(used, target).lost == ("r1",)
    assert fault(lambda: fetch("r1", back_up(used, target).id)) == "bundle-missing"
    fetch("r1")
    assert back_up(used, target).lost == ()


def test_what_the_bucket_lost_is_in_the_figures(shared: Project, run_hello: Callable[..., None]) -> None:
    from contextlib import closing

    from maestro_dagster.project.intake import open_inbox
    from maestro_dagster.project.metric import open_metrics

    line = b'maestro_receipts_failed{reason="lost"} '
    run_hello(shared, "r2")
    with closing(open_inbox(shared)) as inbox:
        assert line + b"0" in open_metrics(shared, inbox).render()
        Bucket(str(shared.evidence_url)).remove("r2.zip")
        assert line + b"1" in open_metrics(shared, inbox).render()
