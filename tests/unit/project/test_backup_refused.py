"""What a backup is not made of, not made to, and not read from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from maestro_dagster.errors import MaestroError
from maestro_dagster.project.backup import back_up
from maestro_dagster.project.backup_statement import SUFFIX
from maestro_dagster.project.backup_target import list_backups
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
