from __future__ import annotations

from typing import Any

import pytest

from maestro_dagster.errors import ProjectError
from maestro_dagster.project.settings import Settings, read_settings, variable

NAMES = [row["name"] for row in Settings().table()]


def read(table: dict[str, Any] | None = None, **environment: str) -> Settings:
    return read_settings(table or {}, environment, "pyproject.toml")


def test_defaults_come_from_nowhere_else() -> None:
    settings = read()
    assert settings == Settings()
    assert {row["origin"] for row in settings.table()} == {"default"}


def test_the_environment_wins_over_the_file_and_each_says_its_origin() -> None:
    settings = read({"env": "staging", "tenant": "acme"}, MAESTRO_ENV="prod")
    assert (settings.env, settings.tenant) == ("prod", "acme")
    assert settings.origin("env") == "environment"
    assert settings.origin("tenant") == "pyproject"
    assert settings.origin("home") == "default"


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_variable_and_a_description(name: str) -> None:
    row = next(row for row in Settings().table() if row["name"] == name)
    assert row["description"]
    assert variable(name) == f"MAESTRO_{name.upper()}" == row["variable"]


@pytest.mark.parametrize(
    ("name", "near"),
    [("tennant", "tenant"), ("max-concurrent-runs", "max_concurrent_runs"), ("Home", "home")],
)
def test_an_unknown_key_is_refused_with_what_was_meant(name: str, near: str) -> None:
    with pytest.raises(ProjectError) as caught:
        read({name: "x"})
    assert caught.value.error_code == "setting-unknown"
    assert repr(near) in caught.value.remedy


@pytest.mark.parametrize(
    "table",
    [
        {"home": ""},
        {"home": 3},
        {"tenant": "a b"},
        {"tenant": "../x"},
        {"max_concurrent_runs": -1},
        {"max_concurrent_runs": True},
        {"max_concurrent_runs": "2"},
        {"repositories": "a"},
        {"repositories": [1]},
        {"allow_flows_from_push": "yes"},
        {"policy_engine": "cedar"},
        {"advisories_max_age_days": -1},
        {"model_base_url": "localhost:8000"},
        {"model_base_url": "file:///etc"},
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ProjectError) as caught:
        read(table)
    assert caught.value.error_code == "setting-invalid"
    assert next(iter(table)) in caught.value.place


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("repositories", "a.git, name=b.git,", ("a.git", "name=b.git")),
        ("repositories", "", ()),
        ("max_concurrent_runs", "7", 7),
        ("allow_flows_from_push", "true", True),
        ("pii_allow_stricter_tier", "0", False),
        ("advisories_max_age_days", "none", None),
        ("advisories_max_age_days", "30", 30),
        ("model_base_url", "", None),
    ],
)
def test_texts_of_the_environment_are_read_by_type(name: str, text: str, value: Any) -> None:
    assert getattr(read(None, **{variable(name): text}), name) == value


@pytest.mark.parametrize(("name", "text"), [("max_concurrent_runs", "many"), ("allow_flows_from_push", "ja")])
def test_a_wrong_text_of_the_environment_is_refused(name: str, text: str) -> None:
    with pytest.raises(ProjectError) as caught:
        read(None, **{variable(name): text})
    assert variable(name) in caught.value.place


def test_a_password_in_a_url_is_not_shown() -> None:
    settings = read({"artifact_store": "s3://user:hunter2@bucket/x", "model_base_url": "http://a:b@h/v1"})
    assert "hunter2" not in str(settings.table())
    assert "a:b" not in str(settings.table())
    assert settings.artifact_store == "s3://user:hunter2@bucket/x"


def test_white_space_around_a_variable_is_not_of_its_value() -> None:
    """`$(cat FILE)` takes the newline away, others that read a file do not."""
    given = {
        "MAESTRO_DATABASE": " postgresql://db.example/shop\n",
        "MAESTRO_ENV": "prod\n",
        "MAESTRO_PODS": "true\n",
    }
    found = read_settings({}, given, "pyproject.toml")
    assert (found.database, found.env, found.pods) == ("postgresql://db.example/shop", "prod", True)
