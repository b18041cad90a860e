"""resources/forges.yaml: what it may say, and what is refused with the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.errors import EventError
from maestro_dagster.events.forge import ForgeRepository, find_forge, parse_forges, read_forges

SHOP: dict[str, Any] = {
    "name": "shop",
    "forge": "github",
    "repository": "acme/shop",
    "clone": "https://forge.example/acme/shop.git",
    "secrets": ["SHOP_WEBHOOK"],
}


def test_a_repository_with_everything(tmp_path: Path) -> None:
    path = tmp_path / "forges.yaml"
    path.write_text("""\
repositories:
  - name: shop
    forge: github
    repository: acme/shop
    clone: https://forge.example/acme/shop.git
    secrets: [SHOP_WEBHOOK, SHOP_WEBHOOK_BEFORE]
    api: https://api.github.com/
    token: SHOP_TOKEN
""")
    assert read_forges(path) == (
        ForgeRepository(
            name="shop",
            forge="github",
            repository="acme/shop",
            clone="https://forge.example/acme/shop.git",
            secrets=("SHOP_WEBHOOK", "SHOP_WEBHOOK_BEFORE"),
            api="https://api.github.com",
            token="SHOP_TOKEN",
        ),
    )


def test_a_file_that_does_not_parse_says_where(tmp_path: Path) -> None:
    path = tmp_path / "forges.yaml"
    path.write_text("repositories:\n  - name: shop\n    forge: [github\n    clone: x\n")
    with pytest.raises(EventError) as caught:
        read_forges(path)
    assert caught.value.error_code == "forges-invalid"
    assert ", line 4" in caught.value.fact


def test_the_shipped_file_has_none_and_a_missing_one_too(repository: Path, tmp_path: Path) -> None:
    assert read_forges(repository / "resources" / "forges.yaml") == ()
    assert read_forges(tmp_path / "forges.yaml") == ()


@pytest.mark.parametrize(
    "clone",
    [
        "/srv/shop.git",
        "git@forge.example:acme/shop.git",
        "ssh://git@forge.example/shop",
        "http://localhost:3000/acme/shop.git",
        "http://127.0.0.1/acme/shop.git",
    ],
)
def test_a_clone_may_be_a_path_or_of_ssh(clone: str) -> None:
    assert parse_forges({"repositories": [{**SHOP, "clone": clone}]})[0].clone == clone


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "../x"}, "`name`"),
        ({"name": ""}, "`name`"),
        ({"name": 7}, "`name`"),
        ({"forge": "svn"}, "`forge`"),
        ({"forge": ["github"]}, "`forge`"),
        ({"repository": "shop"}, "`repository`"),
        ({"repository": "acme/"}, "`repository`"),
        ({"repository": "acme\n/shop"}, "`repository`"),
        ({"clone": "--upload-pack=touch /tmp/x"}, "`clone`"),
        ({"clone": "ext::sh -c touch"}, "`clone`"),
        ({"clone": "javascript://x"}, "`clone`"),
        ({"clone": "../shop.git"}, "whole path"),
        ({"clone": "shop.git"}, "whole path"),
        ({"clone": "https://user:word@forge.example/shop"}, "credentials"),
        ({"clone": "https://ghp_token@forge.example/shop"}, "credentials"),
        ({"clone": "https://[::1"}, "`clone`"),
        ({"clone": "http://forge.example/acme/shop.git"}, "https"),
        ({"clone": "http://localhost.forge.example/acme/shop.git"}, "https"),
        ({"secrets": []}, "`secrets`"),
        ({"secrets": ["A", "B", "C"]}, "`secrets`"),
        ({"secrets": ["A", "A"]}, "twice"),
        ({"secrets": "A"}, "`secrets`"),
        ({"secrets": ["hunter2 is my secret"]}, "names of secrets"),
        ({"secrets": None}, "`secrets`"),
        ({"api": "http://forge.example"}, "https"),
        ({"api": "https://token@forge.example"}, "credentials"),
        ({"api": "https://forge.example:99999"}, "no URL"),
        ({"token": "hunter2 is my token"}, "names of secrets"),
        ({"colour": "red"}, "'colour'"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(change: dict[str, Any], says: str) -> None:
    with pytest.raises(EventError) as caught:
        parse_forges({"repositories": [SHOP, {**SHOP, "name": "other", **change}]}, "forges.yaml")
    assert caught.value.error_code == "forges-invalid"
    assert says in caught.value.fact
    assert caught.value.place == "forges.yaml: repositories[1]"
    assert "hunter2" not in str(caught.value)
    assert "word@" not in str(caught.value)


@pytest.mark.parametrize(
    "document", [None, [], "x", {}, {"repositories": {}}, {"repositories": [], "more": 1}]
)
def test_a_document_of_another_shape_is_refused(document: Any) -> None:
    with pytest.raises(EventError) as caught:
        parse_forges(document)
    assert caught.value.error_code == "forges-invalid"


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a: [", b"repositories: [*x]", b"!!python/object:os.x {}"])
def test_a_file_that_does_not_parse_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "forges.yaml"
    path.write_bytes(data)
    with pytest.raises(EventError) as caught:
        read_forges(path)
    assert caught.value.error_code == "forges-invalid"


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(EventError, match="'shop'"):
        parse_forges({"repositories": [SHOP, SHOP]})


def test_an_unknown_name_is_told_as_such() -> None:
    known = parse_forges({"repositories": [SHOP]})
    assert find_forge(known, "shop").repository == "acme/shop"
    with pytest.raises(EventError) as caught:
        find_forge(known, "Shop")
    assert caught.value.error_code == "webhook-unknown"
