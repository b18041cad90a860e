"""Dated price snapshots: `resources/prices/YYYY-MM-DD.json`, each valid from its day until the next one.

A snapshot is written once and never edited, so a day's price stays what it was. Its models stand sorted, a
line for each, so two of them can be compared by eye:

    {"version": 1, "valid_from": "2026-11-21", "currency": "USD", "source": {...}, "models": {
    "gpt-4o": {"provider": "openai", "price": {"input": "2.5", "output": "10"}},
    ...
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

from maestro_dagster.errors import CostError
from maestro_dagster.llm import price_map
from maestro_dagster.llm.catalogue import Model
from maestro_dagster.llm.price import TokenPrice
from maestro_dagster.llm.price_text import read_token_price, write_token_price

_LIST = "prices"  # how the names of these prices begin: prices@2026-11-21#gpt-4o
_SETTLED = 2 * 10**9  # nanoseconds
_REMEDY = "restore the file, which is never edited, or remove it if no usage was priced by it"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`models` maps a name to `{"provider": ..., "price": ...}`; prices are read when they are asked for."""

    valid_from: str
    models: Mapping[str, Any]
    source: Mapping[str, str]
    place: str = ""

    def find(self, name: str, provider: str | None = None) -> TokenPrice | None:
        """The price of a model, of that provider if one is given. Raises CostError (`prices-invalid`)."""
        entry = self.models.get(name)
        if entry is None:
            return None
        if not isinstance(entry, Mapping) or not isinstance(entry.get("provider"), str):
            raise _invalid(f"the model {name!r} has no provider", self.place)
        if provider is not None and entry["provider"] != provider:
            return None
        try:
            return read_token_price(entry.get("price"), f"{_LIST}@{self.valid_from}#{name}", self.place)
        except CostError as error:
            raise _invalid(f"the price of {name!r}: {error.fact}", self.place) from None

    def render(self) -> bytes:
        """The file. The same prices from the same source give the same bytes."""
        head = {"version": 1, "valid_from": self.valid_from, "currency": "USD", "source": dict(self.source)}
        lines = [f"{_dump(name)}: {_dump(self.models[name])}" for name in sorted(self.models)]
        return (_dump(head)[:-1] + ', "models": {\n' + ",\n".join(lines) + "\n}}\n").encode()


class PriceBook:
    """The snapshots of a folder, or the list of the installed litellm while there is none.

    Snapshots are chosen once and reviewed; with the first of them an upgrade of litellm changes no price.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._seen = -1
        self._days: tuple[str, ...] = ()
        self._read: dict[str, Snapshot] = {}

    @property
    def days(self) -> tuple[str, ...]:
        """The days from which snapshots are valid, in order. Looks again when the folder has changed."""
        try:
            changed = self._folder.stat().st_mtime_ns if self._folder else -1
        except OSError:
            return ()
        if self._folder and changed != self._seen:
            self._days = tuple(sorted(filter(_is_day, (path.stem for path in self._folder.glob("*.json")))))
            # A folder that changes at this moment may change again under the same time.
            self._seen = changed if time.time_ns() - changed > _SETTLED else -1
        return self._days

    def snapshot(self, day: str) -> Snapshot | None:
        """The snapshot that holds on a day: the newest that is not after it."""
        valid = [each for each in self.days if each <= day[:10]]
        if not valid or self._folder is None:
            return None
        if valid[-1] not in self._read:
            self._read[valid[-1]] = read_snapshot(self._folder / f"{valid[-1]}.json")
        return self._read[valid[-1]]

    def find(self, names: Iterable[str], day: str, provider: str | None = None) -> TokenPrice:
        """The price under the first name that has one; else an unknown one whose name says what is missing.

        Raises CostError (`prices-invalid`).
        """
        snapshot = self.snapshot(day)
        names = tuple(names)
        for name in names:
            if snapshot is not None:
                found = snapshot.find(name, provider)
            else:
                found = None if self.days else price_map.find_price(name, provider)
            if found is not None and found.known:
                return found
        since = snapshot.valid_from if snapshot else "none"
        return TokenPrice(f"{_LIST}@{since}#{names[0] if names else ''}")

    def find_for(self, model: Model, day: str) -> TokenPrice:
        """What the snapshots say of a model of the catalogue: only of its own provider's."""
        names = (f"{model.provider}/{model.model}", model.model, model.name)
        return self.find(names, day, model.provider)

    def price_of(self, model: Model, day: str) -> TokenPrice:
        """The price of a model of the catalogue: its own wins."""
        if model.price.known:
            return model.price
        found = self.find_for(model, day)
        return found if found.known else model.price

    def names(self, day: str) -> Iterator[tuple[str, str]]:
        """(name, provider) of each model with a price on that day, sorted."""
        snapshot = self.snapshot(day)
        if snapshot is not None:
            yield from ((name, snapshot.models[name]["provider"]) for name in sorted(snapshot.models))
        elif not self.days:
            yield from price_map.list_models()


def read_snapshot(path: Path) -> Snapshot:
    """Raises CostError (`prices-invalid`)."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _invalid(f"the price snapshot cannot be read: {error}", str(path)) from None
    if not isinstance(document, dict) or document.get("version") != 1 or document.get("currency") != "USD":
        raise _invalid("a price snapshot has version 1 and is in USD", str(path))
    if document.get("valid_from") != path.stem or not _is_day(path.stem):
        raise _invalid("a price snapshot is named after the day from which it is valid", str(path))
    models, source = document.get("models"), document.get("source")
    if not isinstance(models, dict) or not isinstance(source, dict):
        raise _invalid("a price snapshot has `models` and `source`", str(path))
    return Snapshot(path.stem, models, source, str(path))


def make_snapshot(entries: Mapping[str, Any], valid_from: str, source: str, data: bytes) -> Snapshot:
    """From a list in LiteLLM's form: its text models that have a price. `data` is the list as it was read."""
    models = {}
    for name, entry in entries.items():
        if not isinstance(entry, Mapping) or entry.get("mode") not in price_map.CHAT_MODES:
            continue
        price = price_map.read_price(entry, name)
        if price.known:
            provider = str(entry.get("litellm_provider") or name.partition("/")[0])
            models[name] = {"provider": provider, "price": write_token_price(price)}
    if not models:
        raise CostError(
            "the price list has no price of any text model",
            place=source,
            remedy="give a list in LiteLLM's form: model names with their prices for one token",
            code="price-list-invalid",
        )
    return Snapshot(valid_from, models, {"list": source, "sha256": sha256(data).hexdigest()})


def write_snapshot(folder: Path, snapshot: Snapshot) -> Path:
    """Writes it whole or not at all. Raises CostError (`prices-exist`, `prices-write`)."""
    path = folder / f"{snapshot.valid_from}.json"
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(snapshot.render())
            os.fchmod(handle, 0o644)
            file.flush()
            os.fsync(handle)
        os.link(temporary, path)  # fails where there is one: two at once never replace each other
    except FileExistsError:
        raise CostError(
            f"there is a price snapshot of {snapshot.valid_from}, and snapshots are never edited",
            place=str(path),
            remedy="let the new prices hold from another day: --day YYYY-MM-DD",
            code="prices-exist",
        ) from None
    except OSError as error:
        raise CostError(
            f"the price snapshot cannot be written: {error.strerror}",
            place=str(path),
            remedy="make the folder writable, or free some space",
            code="prices-write",
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return path


def compare_models(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`{"added": [name], "removed": [name], "changed": {name: {"old", "new"}}}`, all sorted."""
    return {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": {
            name: {"old": old[name], "new": new[name]}
            for name in sorted(old.keys() & new.keys())
            if old[name] != new[name]
        },
    }


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _invalid(fact: str, place: str) -> CostError:
    return CostError(fact, place=place, remedy=_REMEDY, code="prices-invalid")
