from __future__ import annotations

import json
import shutil
import stat
import tomllib
from pathlib import Path

import pytest

from maestro_dagster.errors import EvidenceError, ProjectError
from maestro_dagster.evidence.key import load_signer
from maestro_dagster.project import scaffold
from maestro_dagster.project.load import read_flows
from maestro_dagster.project.recipe import add_recipe, digest_folder, list_recipes
from maestro_dagster.project.root import open_project
from maestro_dagster.project.scaffold import init_project, shipped_project


def test_a_new_project_is_complete_and_its_key_is_private(tmp_path: Path) -> None:
    made = init_project(tmp_path / "my shop")
    project = open_project(made.root)
    assert tomllib.loads((made.root / "pyproject.toml").read_text())["project"]["name"] == "my-shop"
    for folder in ("assets", "resources", "sensors", "policies"):
        assert (made.root / folder).is_dir()
    assert "hello" in project.flows()
    assert ".maestro/" in (made.root / ".gitignore").read_text()
    key = project.keys / "maestro.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(project.home.stat().st_mode) == 0o700
    assert load_signer(project.keys).hint == made.hint
    assert (project.keys / "maestro.pub.pem").read_text() == made.public_key
    assert "PRIVATE" not in made.public_key
    assert not list(tmp_path.glob(".*")), "nothing is left beside the project"


def test_every_flow_of_the_starter_can_be_read(tmp_path: Path) -> None:
    assert read_flows(open_project(init_project(tmp_path / "shop").root))


def test_the_other_algorithm(tmp_path: Path) -> None:
    made = init_project(tmp_path / "shop", algorithm="ecdsa-p256-sha256")
    assert load_signer(made.root / ".maestro" / "keys").algorithm == "ecdsa-p256-sha256"


def test_two_projects_have_two_keys(tmp_path: Path) -> None:
    assert init_project(tmp_path / "a").hint != init_project(tmp_path / "b").hint


def test_an_empty_folder_is_filled_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    before = folder.stat().st_ino
    monkeypatch.chdir(folder)
    made = init_project(Path())
    assert made.root == folder
    assert folder.stat().st_ino == before
    assert open_project(folder).flows()


@pytest.mark.parametrize("name", ["file", ".hidden"])
def test_a_folder_that_is_not_empty_is_refused_and_untouched(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(ProjectError) as caught:
        init_project(folder)
    assert caught.value.error_code == "folder-not-empty"
    assert [path.name for path in folder.iterdir()] == [name]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("mine")
    with pytest.raises(ProjectError):
        init_project(tmp_path / "shop")
    with pytest.raises(ProjectError) as caught:
        init_project(tmp_path / "shop" / "inner")
    assert caught.value.error_code == "init-failed"


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("broken", ["_fill", "_make_key", "_move"])
def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, existing: bool
) -> None:
    folder = tmp_path / "shop"
    if existing:
        folder.mkdir()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scaffold, broken, fail)
    with pytest.raises(ProjectError) as caught:
        init_project(folder)
    assert caught.value.error_code == "init-failed"
    assert "space" in str(caught.value)
    assert list(tmp_path.iterdir()) == ([folder] if existing else [])
    assert not existing or not list(folder.iterdir())


def test_a_failed_move_into_an_empty_folder_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    rename, count = Path.rename, iter(range(100))

    def fail_third(self: Path, target: Path) -> Path:
        if next(count) == 2:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_third)
    with pytest.raises(ProjectError):
        init_project(folder)
    assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == [folder]


def test_a_home_elsewhere_gets_the_key_and_keeps_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAESTRO_HOME", str(tmp_path / "state"))
    first = init_project(tmp_path / "a")
    second = init_project(tmp_path / "b")
    assert first.hint == second.hint
    assert not (tmp_path / "a" / ".maestro").exists()
    assert (tmp_path / "state" / "keys" / "maestro.pem").exists()


def test_the_shipped_folders_are_found(repository: Path) -> None:
    assert shipped_project() == repository


def test_a_recipe_is_copied_with_its_digest(tmp_path: Path) -> None:
    root = init_project(tmp_path / "shop").root
    view = add_recipe(root, "daily-ai-brief")
    assert (view.path, view.changed) == ("recipes/daily-ai-brief", False)
    assert (root / "recipes/daily-ai-brief/fixtures/feed.xml").is_file()
    lock = json.loads((root / "recipes/lock.json").read_text())
    assert lock["daily-ai-brief"]["digest"] == view.digest == digest_folder(root / "recipes/daily-ai-brief")
    assert "daily-ai-brief" in open_project(root).flows()
    (root / "recipes/daily-ai-brief/README.md").write_text("mine\n")
    assert next(view for view in list_recipes(root) if view.name == "daily-ai-brief").changed is True


def test_a_recipe_is_not_overwritten(tmp_path: Path) -> None:
    root = init_project(tmp_path / "shop").root
    add_recipe(root, "daily-ai-brief")
    with pytest.raises(ProjectError) as caught:
        add_recipe(root, "daily-ai-brief")
    assert caught.value.error_code == "recipe-exists"
    shutil.rmtree(root / "recipes" / "daily-ai-brief")
    assert add_recipe(root, "daily-ai-brief").path


@pytest.mark.parametrize("name", ["nope", "../assets", "", "."])
def test_an_unknown_recipe_says_which_there_are(tmp_path: Path, name: str) -> None:
    root = init_project(tmp_path / "shop").root
    with pytest.raises(ProjectError) as caught:
        add_recipe(root, name)
    assert caught.value.error_code == "recipe-missing"
    assert "daily-ai-brief" in caught.value.remedy


def test_a_failed_copy_of_a_recipe_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = init_project(tmp_path / "shop").root
    before = sorted(path for path in root.rglob("*"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(ProjectError) as caught:
        add_recipe(root, "daily-ai-brief")
    assert caught.value.error_code == "recipe-failed"
    assert sorted(path for path in root.rglob("*")) == before


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"path": 2}}'])
def test_a_damaged_lock_is_a_coded_error(tmp_path: Path, text: str) -> None:
    root = init_project(tmp_path / "shop").root
    (root / "recipes").mkdir(exist_ok=True)
    (root / "recipes" / "lock.json").write_text(text)
    with pytest.raises(ProjectError) as caught:
        list_recipes(root)
    assert caught.value.error_code == "recipe-lock"


def test_no_file_of_a_starter_can_be_written_by_others(tmp_path: Path) -> None:
    root = init_project(tmp_path / "shop").root
    assert not [path for path in root.rglob("*") if path.stat().st_mode & 0o022]


def test_a_project_without_a_key_gets_just_the_key(tmp_path: Path) -> None:
    made = init_project(tmp_path / "shop")
    keys = made.root / ".maestro" / "keys"
    (keys / "maestro.pem").unlink()
    (made.root / "pyproject.toml").write_text('[tool.maestro]\nenv = "mine"\n')
    before = sorted(path for path in made.root.rglob("*") if not path.is_relative_to(keys))
    again = init_project(made.root)
    assert not again.fresh
    assert load_signer(keys).hint == again.hint != made.hint
    assert sorted(path for path in made.root.rglob("*") if not path.is_relative_to(keys)) == before
    assert (made.root / "pyproject.toml").read_text() == '[tool.maestro]\nenv = "mine"\n'
    # What the lost key signed can still be verified.
    assert made.public_key in [path.read_text() for path in keys.glob("maestro.*.pub.pem")]


@pytest.mark.parametrize("text", [None, "garbage"])
def test_a_key_that_is_there_is_never_overwritten(tmp_path: Path, text: str | None) -> None:
    key = init_project(tmp_path / "shop").root / ".maestro" / "keys" / "maestro.pem"
    if text is not None:
        key.write_text(text)
    before = key.read_bytes()
    with pytest.raises(EvidenceError) as caught:
        init_project(tmp_path / "shop")
    assert caught.value.error_code == "key-exists"
    assert key.read_bytes() == before


def test_another_programs_folder_is_no_project(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    with pytest.raises(ProjectError) as caught:
        init_project(tmp_path)
    assert caught.value.error_code == "folder-not-empty"
