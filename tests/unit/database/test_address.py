"""A password is on no surface, wherever in the URL it stands."""

from __future__ import annotations

import pytest

from maestro_dagster.database.address import hide_url, show_url
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
