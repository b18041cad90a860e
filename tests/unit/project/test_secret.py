from __future__ import annotations

from pathlib import Path

import pytest

from maestro_dagster.errors import ProjectError
from maestro_dagster.project.pin import ProjectPins
from maestro_dagster.project.redaction import open_redactor
from maestro_dagster.project.root import find_project
from maestro_dagster.project.secret import list_secrets, secret_source


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    file = tmp_path / "secrets" / "api-key"
    file.write_text("from-file\n")
    file.chmod(0o600)
    assert secret_source(tmp_path, {})("api-key") == "from-file"
    assert secret_source(tmp_path, {"MAESTRO_SECRET_API_KEY": "from-env"})("api-key") == "from-env"


@pytest.mark.parametrize("name", ["gone", "../keys/maestro.pem", "", "/etc/passwd", "a/b"])
def test_there_is_no_such_secret(tmp_path: Path, name: str) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "maestro.pem").write_text("private")
    (tmp_path / "secrets").mkdir()
    assert secret_source(tmp_path, {})(name) is None


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    file = tmp_path / "secrets" / "token"
    file.write_text("hunter2")
    file.chmod(0o640)
    with pytest.raises(ProjectError) as caught:
        secret_source(tmp_path, {})("token")
    assert caught.value.error_code == "secret-open"
    assert "hunter2" not in str(caught.value)


def test_pins_follow_the_files(root: Path) -> None:
    (root / "policies" / "budget").mkdir(parents=True)
    rule = root / "policies" / "budget" / "budget.rego"
    rule.write_text("package maestro.budget\n")
    pins = ProjectPins(root)
    before = dict(pins)
    assert sorted(before) == ["policies/budget/budget.rego", "pyproject.toml"]
    rule.write_text("package maestro.budget # changed\n")
    after = dict(pins)
    assert after["pyproject.toml"] == before["pyproject.toml"]
    assert after["policies/budget/budget.rego"] != before["policies/budget/budget.rego"]


def test_a_process_knows_the_secrets_of_the_state_folder_before_anybody_names_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAESTRO_SECRET_FROM_ENV", "hunter2-hunter2")
    project = find_project(root)
    folder = project.home / "secrets"
    folder.mkdir(parents=True)
    for name, data, mode in (
        ("good", b"s3cr3t-value\n", 0o600),
        ("short", b"word", 0o600),
        ("open", b"seen-by-others", 0o644),
        ("binary", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8", 0o600),
    ):
        (folder / name).write_bytes(data)
        (folder / name).chmod(mode)
    (folder / "folder").mkdir()
    assert list(list_secrets(project.home)) == ["s3cr3t-value", "word"]
    assert (
        open_redactor(project).hide("a word of hunter2-hunter2 and s3cr3t-value") == "a word of *** and ***"
    )
    assert list(list_secrets(root / "gone")) == []
    assert secret_source(root, {"MAESTRO_SECRET_A": "value\n"})("a") == "value"
