"""Prices of models that the catalogue does not have, from the list that litellm ships.

The list is read as a file: importing litellm takes seconds, parsing its JSON milliseconds. Prices are
read from their text, so no binary float is ever in between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from maestro_dagster.errors import CostError
from maestro_dagster.llm.catalogue import Model
from maestro_dagster.llm.price import TokenPrice, TokenRates
from maestro_dagster.manifest.price import parse_price

FILE = "model_prices_and_context_window_backup.json"
_FIELDS = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}
_TIER = re.compile(r"_above_(\d{1,6})k_tokens$")
_CHAT_MODES = ("chat", "responses", "completion")


def find_model(name: str, provider: str | None = None) -> Model | None:
    """A chat model that litellm can reach, or None. Its key is the provider's usual variable."""
    entry = _read_map().get(name)
    if entry is None and provider:
        name = f"{provider}/{name}"
        entry = _read_map().get(name)
    if not isinstance(entry, Mapping) or entry.get("mode") not in _CHAT_MODES:
        return None
    maker = str(entry.get("litellm_provider") or name.partition("/")[0])
    if provider and maker != provider:
        return None
    return Model(
        name=name,
        provider=maker,
        via="litellm",
        model=name,
        price=read_price(entry, f"{_list_name()}#{name}"),
        key=re.sub(r"[^A-Z0-9]", "_", maker.upper()) + "_API_KEY",
        context=_whole(entry.get("max_input_tokens"), 8192),
        max_output=_whole(entry.get("max_output_tokens"), 4096),
    )


def read_price(entry: Mapping[str, Any], name: str) -> TokenPrice:
    """The price of one entry of the list, whose numbers are text. A zero there means nobody knows."""
    tiers: dict[int, dict[str, int | None]] = {}
    for field in entry:
        match = _TIER.search(field)
        base = field[: match.start()] if match else ""
        for kind, plain in _FIELDS.items():
            if match and base == plain:
                tiers.setdefault(int(match.group(1)) * 1000, {})[kind] = _rate(entry[field])
    rates = TokenRates(**{kind: _rate(entry.get(field)) for kind, field in _FIELDS.items()})
    return TokenPrice(name, rates, tuple((limit, TokenRates(**tiers[limit])) for limit in sorted(tiers)))


def _rate(value: Any) -> int | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        return parse_price(str(value)) or None
    except CostError:
        return None


def _whole(value: Any, default: int) -> int:
    try:
        return int(str(value))
    except ValueError:
        return default


@lru_cache(maxsize=1)
def _read_map() -> Mapping[str, Any]:
    spec = util.find_spec("litellm")  # of a top-level package: finds it without importing it
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        try:
            value = json.loads(Path(folder, FILE).read_bytes(), parse_float=str)
        except (OSError, ValueError):
            continue
        if isinstance(value, dict):
            return value
    return {}


@lru_cache(maxsize=1)
def _list_name() -> str:
    try:
        return f"litellm@{metadata.version('litellm')}"
    except metadata.PackageNotFoundError:
        return "litellm"
