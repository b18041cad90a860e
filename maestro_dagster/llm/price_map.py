"""Price lists in LiteLLM's form, among them the one that litellm ships.

That one is read as a file: importing litellm takes seconds, parsing its JSON milliseconds. Prices are
read from their text, so no binary float is ever in between. What such a list may have besides and is not
read: prices by the hour of the day, by region, by priority, for images, sound, seconds and searches, and for
caches that live longer than usual.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from maestro_dagster.errors import CostError
from maestro_dagster.llm.catalogue import Model
from maestro_dagster.llm.price import TokenPrice, TokenRates
from maestro_dagster.manifest.price import parse_price

FILE = "model_prices_and_context_window_backup.json"
CHAT_MODES = ("chat", "responses", "completion")
_FIELDS = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "reasoning": "output_cost_per_reasoning_token",
}
_TIER = re.compile(r"_above_(\d{1,6})k_tokens$")
_BATCH = "_batches"


def find_model(name: str, provider: str | None = None) -> Model | None:
    """A chat model that litellm can reach, or None. Its key is the provider's usual variable."""
    entry = _read_map().get(name)
    if entry is None and provider:
        name = f"{provider}/{name}"
        entry = _read_map().get(name)
    if not isinstance(entry, Mapping) or entry.get("mode") not in CHAT_MODES:
        return None
    maker = str(entry.get("litellm_provider") or name.partition("/")[0])
    if provider and maker != provider:
        return None
    return Model(
        name=name,
        provider=maker,
        via="litellm",
        model=name,
        price=read_price(entry, f"{list_name()}#{name}"),
        key=re.sub(r"[^A-Z0-9]", "_", maker.upper()) + "_API_KEY",
        context=_whole(entry.get("max_input_tokens"), 8192),
        max_output=_whole(entry.get("max_output_tokens"), 4096),
    )


def find_price(name: str, provider: str | None = None) -> TokenPrice | None:
    """The price that litellm's own list has for a text model, of that provider if one is given."""
    model = find_model(name)
    return model.price if model is not None and provider in (None, model.provider) else None


def list_models() -> Iterator[tuple[str, str]]:
    """(name, provider) of each text model of litellm's own list, sorted."""
    for name in sorted(_read_map()):
        model = find_model(name)
        if model is not None and model.price.known:
            yield name, model.provider


def parse_map(data: bytes, place: str) -> Mapping[str, Any]:
    """A price list, its numbers as text. Raises CostError (`price-list-invalid`)."""
    try:
        value = json.loads(data, parse_float=str, parse_int=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        fact = f"the price list is no JSON: {error}"
    else:
        if isinstance(value, dict):
            wrong = next((name for name, entry in value.items() if not isinstance(entry, dict)), None)
            if wrong is None:
                return value
            fact = f"the entry {wrong[:80]!r} of the price list is no JSON object"
        else:
            fact = "the price list is no JSON object of models"
    raise CostError(
        fact,
        place=place,
        remedy="give a list in LiteLLM's form: model names with their prices for one token",
        code="price-list-invalid",
    )


def find_shipped() -> Path | None:
    """The file of the installed litellm, found without importing it."""
    spec = util.find_spec("litellm")  # of a top-level package: imports nothing
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return next((path for path in (Path(folder, FILE) for folder in folders) if path.is_file()), None)


def read_price(entry: Mapping[str, Any], name: str) -> TokenPrice:
    """The price of one entry of the list, whose numbers are text. A zero there means nobody knows."""
    batch = _read_fields(entry, f"{name}/batch", _BATCH)
    return replace(_read_fields(entry, name, ""), batch=batch if batch.known else None)


def _read_fields(entry: Mapping[str, Any], name: str, suffix: str) -> TokenPrice:
    tiers: dict[int, dict[str, int | None]] = {}
    for field in entry:
        if not field.endswith(suffix):
            continue
        match = _TIER.search(field.removesuffix(suffix))
        for kind, plain in _FIELDS.items():
            if match and field.startswith(plain) and match.start() == len(plain):
                tiers.setdefault(int(match.group(1)) * 1000, {})[kind] = _rate(entry[field])
    rates = _read_rates(entry, suffix)
    if not suffix and rates == TokenRates():
        return _read_ranges(entry.get("tiered_pricing"), name)
    found = sorted((limit, TokenRates(**tier)) for limit, tier in tiers.items())
    return TokenPrice(name, rates, tuple(tier for tier in found if tier[1] != TokenRates()))


def _read_ranges(value: Any, name: str) -> TokenPrice:
    """Prices by ranges of prompt tokens. What does not follow one from the other is unknown."""
    tiers: list[tuple[int, TokenRates]] = []
    end = 0
    for row in value if isinstance(value, list) else ():
        span = row.get("range") if isinstance(row, Mapping) else None
        if not isinstance(span, list) or len(span) != 2 or _whole(span[0], -1) != end:  # noqa: PLR2004
            return TokenPrice(name)
        tiers.append((end, _read_rates(row)))
        end = _whole(span[1], -1)
    return TokenPrice(name, tiers[0][1], tuple(tiers[1:])) if tiers else TokenPrice(name)


def _read_rates(entry: Mapping[str, Any], suffix: str = "") -> TokenRates:
    rates = TokenRates(**{kind: _rate(entry.get(f"{field}{suffix}")) for kind, field in _FIELDS.items()})
    return replace(rates, reasoning=None) if rates.reasoning == rates.output else rates


def _rate(value: Any) -> int | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        return parse_price(str(value)) or None
    except CostError:
        return None


def _whole(value: Any, default: int) -> int:
    try:
        number = Decimal(str(value))
        return int(number) if number == number.to_integral_value() else default
    except (ArithmeticError, ValueError):  # also for what is no finite number
        return default


@lru_cache(maxsize=1)
def _read_map() -> Mapping[str, Any]:
    path = find_shipped()
    try:
        return parse_map(path.read_bytes(), FILE) if path else {}
    except (OSError, CostError):
        return {}


@lru_cache(maxsize=1)
def list_name() -> str:
    try:
        return f"litellm@{metadata.version('litellm')}"
    except metadata.PackageNotFoundError:
        return "litellm"
