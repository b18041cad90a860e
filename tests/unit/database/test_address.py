"""A password is on no surface, wherever in the URL it stands."""

from __future__ import annotations

import pytest
from psycopg2.extensions import parse_dsn
from sqlalchemy import make_url

from maestro_dagster.database.address import hide_url, show_url, use_schema
from maestro_dagster.database.pool import Pool
from maestro_dagster.errors import MaestroError

SECRET = "hunter2%40hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ci:{SECRET}@db.example/shop",
        f"postgresql://db.example/shop?user=ci&password={SECRET}",
        f"postgresql://db.example/shop?sslpassword={SECRET}&sslmode=require",
    ],
)
def test_a_password_is_hidden_as_it_stands_and_as_it_is(url: str) -> None:
    assert show_url(url) == "postgresql://db.example/shop"
    assert hide_url(f"no {SECRET}, hunter2@hunter2 of {url}", url) == "no ***, *** of ***"


def test_what_the_driver_says_of_a_password_is_not_repeated() -> None:
    pool = Pool("postgresql://127.0.0.1:1/shop?password=hunter2%zzhunter2")
    with pytest.raises(MaestroError) as caught:
        pool.insist(lambda _: None)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", "-csearch_path=public"),
        ("?host=%2Ftmp", "-csearch_path=public"),
        ("?options=-c%20jit%3Doff&host=%2Ftmp", "-c jit=off -csearch_path=public"),
        ("?options=-csearch_path%3Dshop", "-csearch_path=shop -csearch_path=public"),
    ],
)
def test_a_schema_is_named_beside_what_the_url_says(query: str, options: str) -> None:
    url = use_schema(f"postgresql://ci:{SECRET}@db.example/shop{query}", "public")
    parsed, libpq = make_url(url), parse_dsn(url)
    assert parsed.query["options"] == libpq["options"] == options
    assert parsed.query.get("host") == libpq["host"] if "host" in query else libpq["host"] == "db.example"
    assert parsed.password == libpq["password"] == "hunter2@hunter2"
    assert use_schema(url, "public") == url
    assert "hunter2" not in hide_url(f"no {url}, {SECRET}", url)
