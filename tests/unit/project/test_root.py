from __future__ import annotations

from pathlib import Path

import pytest

from maestro_dagster.errors import ManifestError, ProjectError
from maestro_dagster.project.load import read_flows
from maestro_dagster.project.root import find_project, open_project

FLOW = (
    "name: {name}\nversion: 1.0.0\ntasks: [{{id: a, uses: pkg:text/template@1.0.0, with: {{template: x}}}}]\n"
)


def test_the_project_is_found_from_any_folder_below(root: Path) -> None:
    below = root / "assets" / "deep"
    below.mkdir()
    project = find_project(below)
    assert project.root == root
    assert project.home == root / ".maestro"


def test_the_variable_names_the_project(root: Path, tmp_path: Path) -> None:
    assert find_project(tmp_path, {"MAESTRO_PROJECT": str(root)}).root == root
    with pytest.raises(ProjectError) as caught:
        find_project(root, {"MAESTRO_PROJECT": str(tmp_path)})
    assert caught.value.error_code == "project-missing"
    assert "MAESTRO_PROJECT" in caught.value.place


def test_another_tool_s_pyproject_is_passed_over(root: Path) -> None:
    inner = root / "vendor"
    inner.mkdir()
    (inner / "pyproject.toml").write_text('[project]\nname = "maestro-x"\n')
    assert find_project(inner).root == root


def test_no_project_at_all_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        find_project(tmp_path)
    assert caught.value.error_code == "project-missing"
    assert "maestro init" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"[tool.maestro\n", "project-unreadable"),
        (b"[tool]\nmaestro = 3\n", "setting-invalid"),
        (b"[tool.maestro]\nx = '\xff'\n", "project-unreadable"),
        (b"[tool.maestro]\nhom = 'x'\n", "setting-unknown"),
        (b"[tool.maestro]\nx = " + b"[" * 5000, "project-unreadable"),
    ],
)
def test_a_broken_pyproject_is_a_coded_error(root: Path, text: bytes, code: str) -> None:
    (root / "pyproject.toml").write_bytes(text)
    with pytest.raises(ProjectError) as caught:
        open_project(root)
    assert caught.value.error_code == code


def test_the_home_can_be_anywhere(root: Path, tmp_path: Path) -> None:
    project = find_project(root, {"MAESTRO_HOME": str(tmp_path / "state")})
    assert project.keys == tmp_path / "state" / "keys"
    assert project.artifact_store == str(tmp_path / "state" / "artifacts")
    assert find_project(root, {"MAESTRO_ARTIFACT_STORE": "s3://b/x"}).artifact_store == "s3://b/x"
    assert find_project(root, {"MAESTRO_LAKE": "lake"}).lake == str(root / "lake")


def test_flows_are_found_and_files_of_dg_are_not_flows(root: Path) -> None:
    (root / "assets" / "sub").mkdir()
    (root / "assets" / "sub" / "defs.yaml").write_text("type: x\n")
    (root / "assets" / "sub" / "second.json").write_text(
        '{"name": "second", "version": "1.0.0", "tasks": [{"id": "a", "uses": "pkg:text/template@1.0.0"}]}'
    )
    (root / "assets" / "_draft.yaml").write_text("broken: [")
    (root / "assets" / ".hidden").mkdir()
    (root / "assets" / ".hidden" / "x.yaml").write_text("broken: [")
    recipe = root / "recipes" / "third"
    (recipe / "fixtures").mkdir(parents=True)
    (recipe / "flow.yaml").write_text(FLOW.format(name="third-flow"))
    (recipe / "fixtures" / "data.yaml").write_text("x: 1")
    project = open_project(root)
    assert {name: project.relative(path) for name, path in project.flows().items()} == {
        "first": "assets/first.yaml",
        "second": "assets/sub/second.json",
        "third-flow": "recipes/third/flow.yaml",
    }
    for text in ("third", "third-flow", "recipes/third/flow.yaml", str(recipe / "flow.yaml")):
        assert project.find_flow(text) == recipe / "flow.yaml"


def test_an_unknown_flow_says_which_there_are(root: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        open_project(root).find_flow("nope")
    assert caught.value.error_code == "flow-missing"
    assert "assets/first.yaml" in caught.value.remedy


def test_two_flows_of_one_name_are_refused(root: Path) -> None:
    (root / "assets" / "other.yaml").write_text(FLOW.format(name="first"))
    for read in (open_project(root).flows, lambda: read_flows(open_project(root))):
        with pytest.raises(ProjectError) as caught:
            read()
        assert caught.value.error_code == "flow-name-twice"
        assert "assets/first.yaml and assets/other.yaml" in caught.value.place


def test_every_broken_flow_is_named(root: Path) -> None:
    for name in ("bad1", "bad2"):
        (root / "assets" / f"{name}.yaml").write_text("name: x\n")
    with pytest.raises(ManifestError) as caught:
        read_flows(open_project(root))
    assert "bad1.yaml" in caught.value.place
    assert "bad2.yaml" in caught.value.place


def test_repositories_have_names(root: Path) -> None:
    text = '["../lib.git", "t=/srv/x.git", "https://h.example/a/b.git", "git@h.example:o/r.git", "n=git@h:q"]'
    (root / "pyproject.toml").write_text(f"[tool.maestro]\nrepositories = {text}\n")
    assert open_project(root).repositories == {
        "lib": str(root.parent / "lib.git"),
        "t": "/srv/x.git",
        "b": "https://h.example/a/b.git",
        "r": "git@h.example:o/r.git",
        "n": "git@h:q",
    }
