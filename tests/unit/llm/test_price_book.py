"""Dated snapshots: written once, the old ones price old days, a model's own price wins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.errors import CostError
from maestro_dagster.llm.hub import Hub, open_hub
from maestro_dagster.llm.interface import ModelRequest
from maestro_dagster.llm.price_book import (
    PriceBook,
    Snapshot,
    compare_models,
    make_snapshot,
    read_snapshot,
    write_snapshot,
)
from maestro_dagster.llm.price_map import list_name

Write = Callable[..., Path]


def entry(usd: str, provider: str = "openai") -> dict[str, Any]:
    return {"provider": provider, "price": {"input": usd, "output": usd}}


def snapshot(day: str, **models: dict[str, Any]) -> Snapshot:
    return Snapshot(day, models, {"list": "test"})


def test_the_newest_snapshot_that_is_not_after_the_day_counts(tmp_path: Path) -> None:
    book = PriceBook(tmp_path / "prices")
    assert book.days == ()
    write_snapshot(tmp_path / "prices", snapshot("2026-01-01", m=entry("1")))
    assert book.find(["m"], "2026-06-30").cost_nano(1, 0) == 1000
    write_snapshot(tmp_path / "prices", snapshot("2026-03-01", m=entry("2"), n=entry("3")))
    assert book.days == ("2026-01-01", "2026-03-01")
    costs = {day: book.find(["m"], day).cost_nano(1, 0) for day in ("2026-02-28", "2026-03-01", "2027-01-01")}
    assert costs == {"2026-02-28": 1000, "2026-03-01": 2000, "2027-01-01": 2000}
    assert book.find(["m"], "2026-02-28").name == "prices@2026-01-01#m"
    early = book.find(["m"], "2025-12-31")
    assert (early.known, early.name) == (False, "prices@none#m")
    unknown = book.find(["n", "m2"], "2026-02-01")
    assert (unknown.known, unknown.name) == (False, "prices@2026-01-01#n")


def test_a_price_of_another_provider_is_no_price(tmp_path: Path) -> None:
    write_snapshot(tmp_path, snapshot("2026-01-01", m=entry("1", "groq")))
    book = PriceBook(tmp_path)
    assert book.find(["m"], "2026-01-01", "groq").known
    assert not book.find(["m"], "2026-01-01", "openai").known


def test_without_snapshots_the_installed_list_counts_and_with_one_no_more(tmp_path: Path) -> None:
    book = PriceBook(tmp_path)
    assert book.find(["gpt-4o"], "2026-01-01").name == f"{list_name()}#gpt-4o"
    assert PriceBook().find(["gpt-4o"], "2026-01-01").known
    write_snapshot(tmp_path, snapshot("2026-01-01", m=entry("1")))
    assert not book.find(["gpt-4o"], "2026-01-01").known
    assert not book.find(["gpt-4o"], "2025-01-01").known
    assert list(book.names("2026-01-01")) == [("m", "openai")]
    assert list(book.names("2025-01-01")) == []


def test_a_snapshot_is_never_replaced(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path, snapshot("2026-01-01", m=entry("1")))
    before = path.read_bytes()
    with pytest.raises(CostError) as caught:
        write_snapshot(tmp_path, snapshot("2026-01-01", m=entry("2")))
    assert caught.value.error_code == "prices-exist"
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["2026-01-01.json"]


def test_a_snapshot_is_a_line_for_each_model_and_the_same_every_time(tmp_path: Path) -> None:
    made = snapshot("2026-01-01", b=entry("1"), a=entry("2"))
    path = write_snapshot(tmp_path, made)
    lines = path.read_text().splitlines()
    assert [line[:4] for line in lines[1:3]] == ['"a":', '"b":']
    assert path.read_bytes() == snapshot("2026-01-01", a=entry("2"), b=entry("1")).render()
    assert read_snapshot(path).models == dict(made.models)


def test_a_list_becomes_a_snapshot_of_its_text_models() -> None:
    data = b"x"
    chat = {"mode": "chat", "input_cost_per_token": "1e-06", "litellm_provider": "acme"}
    made = make_snapshot(
        {"a": chat, "image": {**chat, "mode": "image_generation"}, "free": {"mode": "chat"}, "odd": 5},
        "2026-01-01",
        "list.json",
        data,
    )
    assert made.models == {"a": {"provider": "acme", "price": {"input": "1"}}}
    assert made.source["list"] == "list.json"
    with pytest.raises(CostError) as caught:
        make_snapshot({}, "2026-01-01", "list.json", data)
    assert caught.value.error_code == "price-list-invalid"


def test_what_changed_is_named() -> None:
    change = compare_models({"a": 1, "b": 2, "c": 3}, {"b": 2, "c": 4, "d": 5})
    assert change == {"added": ["d"], "removed": ["a"], "changed": {"c": {"old": 3, "new": 4}}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "currency": "USD", "valid_from": "2026-01-01", "models": {}, "source": {}}',
        '{"version": 1, "currency": "EUR", "valid_from": "2026-01-01", "models": {}, "source": {}}',
        '{"version": 1, "currency": "USD", "valid_from": "2026-01-02", "models": {}, "source": {}}',
        '{"version": 1, "currency": "USD", "valid_from": "2026-01-01", "models": [], "source": {}}',
        '{"version": 1, "currency": "USD", "valid_from": "2026-01-01", "models": {}}',
        '{"version": 1, "currency": "USD", "valid_from": "2026-01-01", "models": {"m": 5}, "source": {}}',
        '{"version": 1, "currency": "USD", "valid_from": "2026-01-01", "models": {"m": {}}, "source": {}}',
    ],
)
def test_a_damaged_snapshot_is_an_error_and_never_another_price(tmp_path: Path, text: str) -> None:
    (tmp_path / "2026-01-01.json").write_text(text)
    with pytest.raises(CostError) as caught:
        PriceBook(tmp_path).find(["m"], "2026-01-01")
    assert caught.value.error_code == "prices-invalid"
    assert "2026-01-01.json" in caught.value.place


def test_a_price_that_is_a_number_is_refused(tmp_path: Path) -> None:
    write_snapshot(tmp_path, snapshot("2026-01-01", m={"provider": "p", "price": {"input": 0.5}}))
    with pytest.raises(CostError, match="decimal string"):
        PriceBook(tmp_path).find(["m"], "2026-01-01")


def test_other_files_of_the_folder_are_no_snapshots(tmp_path: Path) -> None:
    for name in ("notes.json", "2026-1-1.json", "2026-01-01.txt", ".2026-01-01.json.tmp"):
        (tmp_path / name).write_text("x")
    assert PriceBook(tmp_path).days == ()


CATALOGUE = """
version: 1
priced_at: "2026-01-01"
models:
  - {name: own, provider: openai, key: OPENAI_API_KEY, price: {input: "1", output: "1"}}
  - {name: listed, provider: openai, key: OPENAI_API_KEY}
  - {name: fast, provider: groq, model: openai/gpt-x, key: OPENAI_API_KEY}
  - {name: nowhere, provider: openai, key: OPENAI_API_KEY}
"""


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    (tmp_path / "models.yaml").write_text(CATALOGUE)
    models = {
        "own": entry("7"),
        "listed": entry("7"),
        "openai/gpt-x": entry("8"),
        "groq/openai/gpt-x": entry("9", "groq"),
    }
    write_snapshot(tmp_path / "prices", Snapshot("2020-01-01", models, {"list": "test"}))
    return open_hub(tmp_path / "models.yaml", "http://127.0.0.1:1/v1", secret=lambda name: "key")


def test_the_catalogue_wins_over_the_snapshot_and_the_snapshot_fills_it(hub: Hub) -> None:
    found = {model.name: model.price for model in hub.models}
    assert {name: price.cost_nano(1, 0) for name, price in found.items()} == {
        "own": 1000, "listed": 7000, "fast": 9000, "nowhere": None,
    }  # fmt: skip
    assert found["listed"].name == "prices@2020-01-01#listed"
    assert found["nowhere"].name == "models@2026-01-01#nowhere"


def test_a_call_is_reserved_at_the_snapshots_price(hub: Hub) -> None:
    def estimate(model: str) -> int | None:
        message = {"role": "user", "content": "x" * 84}
        return hub.estimate_nano(ModelRequest((message,), model=model, max_tokens=100))

    assert estimate("own") == 200_000
    assert estimate("listed") == 1_400_000
    assert estimate("nowhere") is None
    assert estimate("gpt-4o") is None  # the installed list has it, the chosen snapshot has not


def test_the_form_is_the_same_for_people_and_programs(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path, snapshot("2026-01-01", m=entry("0.1")))
    value = json.loads(path.read_text())
    assert value["models"]["m"]["price"]["input"] == "0.1"
    assert (value["version"], value["valid_from"], value["currency"]) == (1, "2026-01-01", "USD")
