"""What a backup is not made of, not made to, and not read from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from maestro_dagster.artifacts.store import open_store
from maestro_dagster.errors import MaestroError
from maestro_dagster.evidence.dsse import read_envelope
from maestro_dagster.project.backup import back_up
from maestro_dagster.project.backup_statement import SUFFIX, Entry, read_manifest, read_predicate
from maestro_dagster.project.backup_target import list_backups, open_statements
from maestro_dagster.project.restore import restore
from maestro_dagster.project.root import Project, open_project


def fault(call: Callable[[], object]) -> MaestroError:
    with pytest.raises(MaestroError) as caught:
        call()
    return caught.value


def test_a_database_that_the_records_are_not_in_yet_is_no_backup(
    new_database: Callable[[], str], used: Project, tmp_path: Path
) -> None:
    """The setting was named first and nothing was migrated: the files hold every run, the tables none."""
    target = tmp_path / "backups"
    early = open_project(used.root, {"MAESTRO_DATABASE": new_database()})
    assert fault(lambda: back_up(early, str(target))).error_code == "records-not-moved"
    assert not target.exists()
    assert back_up(used, str(target)).bundles == 2


def test_an_older_statement_under_a_newer_name_is_refused(used: Project, tmp_path: Path) -> None:
    """It is signed, and of this project: only its name says that it was the newest."""
    target = str(tmp_path / "backups")
    old, new = back_up(used, target), back_up(used, target)
    folder = Path(target, "backups")
    shutil.copy(folder / f"{old.id}{SUFFIX}", folder / f"{new.id}{SUFFIX}")
    error = fault(lambda: restore(used, target, check=True))
    assert (error.error_code, error.place) == ("backup-malformed", str(folder / f"{new.id}{SUFFIX}"))
    assert fault(lambda: restore(used, target, backup=new.id)).error_code == "backup-malformed"
    assert restore(used, target, backup=old.id, check=True).backup == old.id


@pytest.mark.parametrize("place", ["", "  ", "s3://", "s3:///shop"])
def test_a_place_that_is_none_is_refused(
    used: Project, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    calls: list[Callable[[], object]] = [
        lambda: back_up(used, place),
        lambda: restore(used, place, check=True),
        lambda: list(list_backups(place)),
    ]
    for call in calls:
        assert fault(call).error_code == "backup-target"
    assert not list((tmp_path / "here").iterdir())


class TestWhatIsDamaged:
    """It is told by the backup and its file, and no remedy is for a store that lives."""

    @pytest.fixture
    def target(self, used: Project, tmp_path: Path) -> str:
        return str(tmp_path / "backups")

    @pytest.mark.parametrize("part", ["home", "artifacts", "evidence"])
    @pytest.mark.parametrize("harm", ["flip", "lose"])
    @pytest.mark.parametrize("check", [True, False])
    def test_an_object(self, used: Project, target: str, part: str, harm: str, check: bool) -> None:
        report = back_up(used, target)
        entry = next(each for each in read_entries(target, report.id) if each.part == part)
        path = Path(target, "sha256", entry.digest[7:9], entry.digest[7:])
        path.chmod(0o644)
        path.write_bytes(b"rotten")
        if harm == "lose":
            path.unlink()
        key = used.home.rename(used.root / "lost") / "keys" / "maestro.pub.pem"
        error = fault(lambda: restore(used, target, keys=[key], check=check))
        assert error.error_code == {"flip": "artifact-corrupt", "lose": "artifact-missing"}[harm]
        assert error.place == f"backup {report.id}, {part} {entry.path}"
        assert error.remedy.startswith("take an older backup")

    def test_a_database(self, used: Project, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def copy(*given: Any) -> None:
            given[-1].write_bytes(b"SQLite format 3\0" + b"x" * 4096)

        monkeypatch.setattr("maestro_dagster.project.backup.copy_database", copy)
        report = back_up(used, target)
        error = fault(lambda: restore(used, target, check=True))
        assert error.error_code == "backup-database"
        assert error.place.startswith(f"backup {report.id}, home ")
        assert error.place.endswith(".sqlite")
        assert error.remedy.startswith("take an older backup")
        assert "the project" not in error.fact

    @pytest.mark.parametrize("code", ["envelope-invalid", "statement-invalid", "signer-unknown"])
    def test_a_statement(self, used: Project, target: str, tmp_path: Path, code: str) -> None:
        from maestro_dagster.evidence.dsse import sign_statement
        from maestro_dagster.evidence.key import load_signer, make_key

        report = back_up(used, target)
        path = Path(target, "backups", f"{report.id}{SUFFIX}")
        if code == "envelope-invalid":
            path.write_bytes(b"{}")
        elif code == "statement-invalid":
            path.write_bytes(sign_statement({"_type": "other"}, load_signer(used.keys)))
        make_key(tmp_path / "other")
        key = tmp_path / "other" / "maestro.pub.pem"
        used.home.rename(used.root / "lost")
        error = fault(lambda: restore(used, target, keys=[key], check=True))
        assert (error.error_code, error.place) == (code, str(path))
        assert "take an older backup" in error.remedy

    def test_a_full_disk(self, used: Project, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from maestro_dagster.cli.backup import command

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device", "/somewhere")

        monkeypatch.chdir(used.root)
        monkeypatch.setattr("maestro_dagster.project.backup.back_up", full)
        error = fault(lambda: CliRunner().invoke(command, [target], catch_exceptions=False))
        assert (error.error_code, error.place) == ("disk-full", "/somewhere")
        assert "maestro backup" in error.remedy
        assert "retry" not in error.remedy


def read_entries(target: str, backup: str) -> tuple[Entry, ...]:
    about = read_predicate(read_envelope(open_statements(target).read(backup)).payload)
    return read_manifest(open_store(target).read(about["manifest"]), about).entries


def test_a_bucket_that_is_not_there(used: Project, s3_bucket: str) -> None:
    for call in (lambda: restore(used, f"{s3_bucket}-none/shop", check=True),):
        error = fault(call)
        assert (error.error_code, error.place) == ("backup-target", f"{s3_bucket}-none/shop")
    assert fault(lambda: restore(used, f"{s3_bucket}/shop", check=True)).error_code == "backup-missing"


def test_a_store_that_is_away_is_named_once(used: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    error = fault(lambda: back_up(used, "s3://backups/s3p"))
    s3fs.S3FileSystem.clear_instance_cache()
    assert error.place == "s3://backups/s3p/sha256"
    assert "TARGET" in error.remedy
    assert "artifact_store" not in str(error)
