"""Which models there are, what they cost, and which one a request gets."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from maestro_dagster.errors import CostError, ModelError
from maestro_dagster.llm.interface import ModelRequest
from maestro_dagster.llm.price import TokenPrice
from maestro_dagster.llm.price_text import read_token_price
from maestro_dagster.manifest.plain_yaml import load_plain_yaml

Via = Literal["builtin", "wire", "litellm"]
_KEYS = frozenset(
    {
        "name",
        "provider",
        "model",
        "base_url",
        "key",
        "price",
        "context",
        "max_output",
        "quality",
        "p95_ms",
        "regions",
    }
)
ANY_PROVIDER = ("litellm", "any", "auto")  # "litellm" in a manifest means: whichever serves the model


@dataclass(frozen=True, slots=True)
class Model:
    """One line of the catalogue. `key` names the secret; the secret itself is never held here.

    `p95_ms` and `quality` (0 to 1) are None where nobody measured them; then no route that asks for
    them takes the model. `regions` is where the provider may process; "*" is anywhere.
    """

    name: str
    provider: str
    via: Via
    model: str  # the name on the wire
    price: TokenPrice
    base_url: str = ""
    key: str = ""
    context: int = 8192
    max_output: int = 2048
    quality: float | None = None
    p95_ms: int | None = None
    regions: tuple[str, ...] = ("*",)


BUILTIN = Model(
    name="extractive",
    provider="builtin",
    via="builtin",
    model="extractive",
    price=TokenPrice("builtin#extractive", free=True),
    context=1_000_000,
    max_output=20_000,
    quality=None,
    p95_ms=200,
)


def read_catalogue(path: Path) -> tuple[Model, ...]:
    """`resources/models.yaml`. Raises ModelError (`models-missing`, `models-invalid`)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"the model catalogue cannot be read: {error.strerror}",
            place=str(path),
            remedy="restore resources/models.yaml; `maestro init` writes one",
            code="models-missing",
        ) from error
    return read_models(_read_yaml(data, str(path)), place=str(path), name=path.stem)


def read_models(document: Any, *, place: str, name: str = "models") -> tuple[Model, ...]:
    if not isinstance(document, Mapping) or str(document.get("version")) != "1":
        raise _invalid("a model catalogue starts with `version: 1`", place)
    if not isinstance(document.get("priced_at"), str):
        raise _invalid("`priced_at` is the date of the price list, in quotes", place)
    rows = document.get("models")
    if not isinstance(rows, list):
        raise _invalid("`models` is a list", place)
    prefix = f"{name}@{document['priced_at']}"
    models = [_read_model(row, prefix, f"{place}: models[{index}]") for index, row in enumerate(rows)]
    names = [model.name for model in models]
    for repeated in sorted({one for one in names if names.count(one) > 1}):
        raise _invalid(f"the model {repeated!r} stands there twice", place)
    return tuple(models)


def choose_model(
    models: Iterable[Model],
    request: ModelRequest,
    usable: Callable[[Model], bool],
    reserve: Callable[[Model], int | None],
) -> tuple[Model, tuple[str, ...]]:
    """The cheapest (or fastest) usable model that fits the route, and notes for the reader.

    Without any usable model the built-in provider takes the request, whatever the route asks, and the
    notes say so. Raises ModelError (`model-route`) when there are models but none fits.
    """
    offered = [model for model in models if model.via != "builtin"]
    if request.provider not in (None, *ANY_PROVIDER):
        offered = [model for model in offered if model.provider == request.provider]
    configured = [model for model in offered if usable(model)]
    if request.provider == "builtin" or not configured:
        if request.provider not in (None, "builtin", *ANY_PROVIDER):
            raise ModelError(
                f"no usable model of provider {request.provider!r}",
                remedy="give its key, or name another provider",
                code="model-unreachable",
            )
        return BUILTIN, (
            "no model provider is configured: the built-in one answered, which writes nothing of its own",
        )
    reasons: dict[str, str] = {}
    fast = request.route.get("minimise") == "latency"
    fitting: list[tuple[int, int, str, Model]] = []
    for model in configured:
        cost = reserve(model)
        reason = _misfit(model, request, cost)
        if reason or cost is None:
            reasons[model.name] = reason
        else:
            speed = sys.maxsize if model.p95_ms is None else model.p95_ms
            fitting.append((*((speed, cost) if fast else (cost, speed)), model.name, model))
    if not fitting:
        raise ModelError(
            "no configured model fits the route: "
            + "; ".join(f"{name}: {reason}" for name, reason in sorted(reasons.items())),
            remedy="widen the route, or add a model to resources/models.yaml",
            code="model-route",
        )
    return min(fitting, key=lambda item: item[:3])[3], ()


def fits_region(model: Model, region: str | None) -> bool:
    return region is None or "*" in model.regions or region in model.regions


def suggest_names(name: str, models: Iterable[Model]) -> str:
    close = difflib.get_close_matches(name, [model.name for model in models], n=3)
    return f"did you mean {', '.join(close)}? " if close else ""


def _misfit(model: Model, request: ModelRequest, cost: int | None) -> str:
    route = request.route
    if not fits_region(model, route.get("region") or request.region):
        return f"not in region {route.get('region') or request.region}"
    slowest, floor = route.get("max_p95_ms"), route.get("quality_floor")
    if slowest is not None and (model.p95_ms is None or model.p95_ms > slowest):
        return f"p95 of {model.p95_ms} ms" if model.p95_ms is not None else "p95 unknown"
    if floor is not None and (model.quality is None or model.quality < floor):
        return f"quality {model.quality}" if model.quality is not None else "quality unknown"
    return "price unknown" if cost is None else ""


def _read_model(row: Any, prefix: str, place: str) -> Model:
    if not isinstance(row, Mapping) or not isinstance(row.get("name"), str):
        raise _invalid("a model has a `name`", place)
    unknown = row.keys() - _KEYS
    if unknown:
        raise _invalid(f"unknown key {min(map(str, unknown))!r}", place)
    name = row["name"]
    provider, base_url = str(row.get("provider", "")), str(row.get("base_url", ""))
    if not provider:
        raise _invalid(f"the model {name!r} has no `provider`", place)
    via: Via = "builtin" if provider == "builtin" else "wire" if base_url else "litellm"
    try:
        return Model(
            name=name,
            provider=provider,
            via=via,
            model=str(row.get("model", name)),
            price=read_token_price(row.get("price"), f"{prefix}#{name}", place),
            base_url=base_url,
            key=str(row.get("key", "")),
            context=int(row.get("context", 8192)),
            max_output=int(row.get("max_output", 2048)),
            quality=None if row.get("quality") is None else float(row["quality"]),
            p95_ms=None if row.get("p95_ms") is None else int(row["p95_ms"]),
            regions=tuple(str(region) for region in row.get("regions", ("*",))),
        )
    except CostError as error:
        raise _invalid(f"the price of {name!r}: {error.fact}", place) from None
    except (TypeError, ValueError) as error:
        raise _invalid(f"the model {name!r} cannot be read: {error}", place) from None


def _read_yaml(data: bytes, place: str) -> Any:
    try:
        return load_plain_yaml(data)
    except ValueError as error:
        raise _invalid(f"the model catalogue does not parse: {error}", place) from None


def _invalid(fact: str, place: str) -> ModelError:
    remedy = "see the comments in resources/models.yaml"
    return ModelError(fact, place=place, remedy=remedy, code="models-invalid")
