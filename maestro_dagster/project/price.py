"""What has a price in a project and what has none: the rate card, the catalogue and the price snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_dagster.costs.rate import RateCard
from maestro_dagster.errors import CostError, MaestroError, StepError, UsageError
from maestro_dagster.llm import price_map
from maestro_dagster.llm.catalogue import Model, read_catalogue
from maestro_dagster.llm.price_book import (
    PriceBook,
    Snapshot,
    compare_models,
    make_snapshot,
    read_snapshot,
    write_snapshot,
)
from maestro_dagster.llm.price_text import write_token_price
from maestro_dagster.project.check import Finding

if TYPE_CHECKING:
    from maestro_dagster.llm.price import TokenPrice
    from maestro_dagster.llm.price_source import PriceList
    from maestro_dagster.project.root import Project

_OLD = timedelta(days=90)


def prices_folder(project: Project) -> Path:
    return project.root / "resources" / "prices"


def list_prices(project: Project, day: str, patterns: Iterable[str] = ()) -> dict[str, Any]:
    """`{"day", "snapshots": [day], "rates", "models"}`; without patterns the models of the catalogue.

    A rate is `{"unit", "usd", "price"}`, a model `{"name", "provider", "usd_per_million", "price"}`; `usd`
    and `usd_per_million` are None where nothing is known, and `price` names the line that says so or lacks.
    """
    card = RateCard.load(project.root / "resources" / "rates.yaml")
    book = PriceBook(prices_folder(project))
    wanted = tuple(patterns)
    found = {
        model.name: (model.name, model.provider, book.price_of(model, day))
        for model in read_catalogue(project.root / "resources" / "models.yaml")
        if not wanted or _fits(model.name, wanted)
    }
    for name, provider in book.names(day) if wanted else ():
        if name not in found and _fits(name, wanted):
            found[name] = (name, provider, book.find((name,), day))
    return {
        "day": day,
        "snapshots": list(book.days),
        "rates": card.list_day(day),
        "models": [_row(*found[name]) for name in sorted(found)],
    }


def check_prices(project: Project, today: str) -> Iterator[Finding]:
    """What would have an unknown cost today, and what cannot be read. An error is what costs money unseen."""
    resources = project.root / "resources"
    try:
        missing = RateCard.load(resources / "rates.yaml").missing_units(today)
        yield from (
            Finding(
                "rates", "error", f"{unit} has no price on {today}", f"add `{unit}` to resources/rates.yaml"
            )
            for unit in missing
        )
        if not missing:
            yield Finding("rates", "ok", "every unit has a price")
    except MaestroError as error:
        yield _finding("rates", error)
    book = PriceBook(prices_folder(project))
    snapshots = [*_check_snapshots(project, book, today)]
    yield from snapshots
    if any(finding.status == "error" for finding in snapshots):
        return
    try:
        yield from _check_models(read_catalogue(resources / "models.yaml"), book, today)
    except MaestroError as error:
        yield _finding("models", error)


def fetch_list(project: Project, source: str | None) -> PriceList:
    """The list of litellm, of a file or of a URL; private, loopback and metadata addresses are reached only
    where `network_allow_private` lists them. Raises CostError (`price-list-...`).
    """
    from maestro_dagster.llm.price_source import read_list
    from maestro_dagster.steps.address import AddressRule

    rule = AddressRule(allow_private=project.settings.network_allow_private)

    def check_address(address: str, host: str) -> None:
        try:
            rule.check_address(address, host)
        except StepError as error:
            raise CostError(
                f"a price list is not fetched from there: {error.fact}",
                place=host,
                remedy="name a public host, give a file, or list the host in network_allow_private",
                code="price-list-address",
            ) from None

    return read_list(source, check_address)


def plan_refresh(project: Project, prices: PriceList, day: str) -> tuple[Snapshot, dict[str, Any]]:
    """The snapshot that the list makes, and how it differs from the newest one there is.

    The second is `{"valid_from", "source", "models", "compared_with", "added", "removed", "changed"}`.
    Raises CostError (`price-list-invalid`, `prices-invalid`); UsageError for a day before the newest one.
    """
    book = PriceBook(prices_folder(project))
    newest = book.days[-1] if book.days else None
    if newest is not None and day < newest:
        raise UsageError(
            f"prices from {day} on would change what days priced since {newest} cost",
            remedy=f"let them hold from a day after {newest}",
        )
    entries = price_map.parse_map(prices.data, prices.name)
    snapshot = make_snapshot(entries, day, prices.name, prices.data)
    before = book.snapshot(newest) if newest is not None else None
    return snapshot, {
        "valid_from": day,
        "source": prices.name,
        "models": len(snapshot.models),
        "compared_with": newest,
        **compare_models(before.models if before else {}, snapshot.models),
    }


def save_snapshot(project: Project, snapshot: Snapshot) -> str:
    """Writes it; gives the path below the project's root."""
    return project.relative(write_snapshot(prices_folder(project), snapshot))


def _check_snapshots(project: Project, book: PriceBook, today: str) -> Iterator[Finding]:
    for day in book.days:
        try:
            snapshot = read_snapshot(prices_folder(project) / f"{day}.json")
            for name in snapshot.models:
                snapshot.find(name)
        except MaestroError as error:
            yield _finding("snapshot", error)
        else:
            yield Finding("snapshot", "ok", f"{day}: {len(snapshot.models)} models")
    if not book.days:
        yield Finding(
            "snapshot",
            "warning",
            f"none: {price_map.list_name()} prices the models without a price of their own",
            "`maestro cost prices refresh` keeps those prices from changing with an upgrade",
        )
    elif date.fromisoformat(today) - date.fromisoformat(book.days[-1]) > _OLD:
        yield Finding(
            "snapshot", "warning", f"the newest is of {book.days[-1]}", "run `maestro cost prices refresh`"
        )


def _check_models(models: Iterable[Model], book: PriceBook, today: str) -> Iterator[Finding]:
    """Each model without a price, and those whose own price is another than the snapshot's."""
    count = 0
    for model in models:
        count += 1
        price = book.price_of(model, today)
        if not price.known:
            yield Finding(
                "models",
                "error",
                f"{model.name} has no price",
                f"give {model.name} a `price` in resources/models.yaml, or refresh the snapshot",
            )
            continue
        listed = book.find_for(model, today)
        if model.price.known and listed.known and _terms(listed) != _terms(price):
            yield Finding(
                "models",
                "warning",
                f"{model.name} has another price in {listed.name}: {_show(listed)}, not {_show(price)}",
                "see which of them you pay; the one in resources/models.yaml counts",
            )
    yield Finding("models", "ok", f"{count} models were looked at")


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _row(name: str, provider: str, price: TokenPrice) -> dict[str, Any]:
    usd = write_token_price(price) if price.known else None
    return {"name": name, "provider": provider, "usd_per_million": usd, "price": price.name}


def _terms(price: TokenPrice) -> TokenPrice:
    """What a call of a step costs, whatever the list is called."""
    return replace(price, name="", batch=None)


def _show(price: TokenPrice) -> str:
    pairs = write_token_price(price).items()
    return ", ".join(f"{kind} {usd}" for kind, usd in pairs if isinstance(usd, str)) or "free"


def _finding(check: str, error: MaestroError) -> Finding:
    return Finding(check, "error", f"{error.fact} ({error.place})", error.remedy)
