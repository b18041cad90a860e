from __future__ import annotations

import sys
from pathlib import Path

import pytest

from maestro_dagster.errors import ProjectError
from maestro_dagster.project.modules import import_project_modules


def test_files_become_modules_of_the_synthetic_package(root: Path) -> None:
    (root / "assets" / "sub").mkdir()
    (root / "assets" / "sub" / "one.py").write_text("VALUE = 1\n")
    (root / "assets" / "_private.py").write_text("raise SystemError\n")
    (root / "assets" / "not-a-name.py").write_text("raise SystemError\n")
    (root / "resources").mkdir()
    (root / "resources" / "two.py").write_text("from maestro_dagster.errors import UsageError as VALUE\n")
    path = list(sys.path)
    modules = import_project_modules(root)
    assert [module.__name__ for module in modules] == [
        "maestro_project.assets.sub.one",
        "maestro_project.resources.two",
    ]
    assert sys.path == path
    assert "assets" not in sys.modules


def test_a_changed_file_is_read_again(root: Path) -> None:
    file = root / "assets" / "one.py"
    for value in (1, 22):
        file.write_text(f"VALUE = {value}\n")
        assert [module.VALUE for module in import_project_modules(root)] == [value]


def test_another_project_replaces_the_first(root: Path, tmp_path: Path) -> None:
    (root / "assets" / "one.py").write_text("VALUE = 1\n")
    import_project_modules(root)
    other = tmp_path / "other"
    (other / "assets").mkdir(parents=True)
    assert import_project_modules(other) == []
    assert "maestro_project.assets.one" not in sys.modules


@pytest.mark.parametrize("code", ["1 / 0", "import no_such_module_anywhere", "def broken(:"])
def test_code_that_cannot_be_imported_is_a_coded_error(root: Path, code: str) -> None:
    (root / "assets" / "bad.py").write_text(code)
    with pytest.raises(ProjectError) as caught:
        import_project_modules(root)
    assert caught.value.error_code == "project-code"
    assert caught.value.place.endswith("assets/bad.py")
