"""The model hub: chooses a model, writes the call down, makes it, settles it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from maestro_dagster.errors import ModelError
from maestro_dagster.llm import price_map
from maestro_dagster.llm.catalogue import (
    ANY_PROVIDER,
    BUILTIN,
    Model,
    choose_model,
    fits_region,
    read_catalogue,
    suggest_names,
)
from maestro_dagster.llm.interface import CallLedger, ModelReply, ModelRequest, ModelUsage
from maestro_dagster.llm.price_book import PriceBook
from maestro_dagster.llm.reply import RawReply, check_text

DEFAULT_MAX_TOKENS = 1024
Secret = Callable[[str], str | None]


def open_hub(
    models_yaml: Path, base_url: str | None = None, *, secret: Secret = os.environ.get, timeout: float = 120.0
) -> Hub:
    """The hub of a project.

    `base_url` is an OpenAI-compatible endpoint that serves every model of provider `openai` and every
    name that the catalogue does not have. `secret` gives a key by its name; `timeout` is seconds a call.
    Price snapshots stand in the folder `prices` beside the catalogue.
    Raises ModelError (`models-missing`, `models-invalid`).
    """
    prices = PriceBook(models_yaml.parent / "prices")
    return Hub(read_catalogue(models_yaml), base_url or "", secret, timeout, prices)


class Hub:
    """Implements ModelHub. A model's own price in the catalogue wins over the one in the price book."""

    def __init__(
        self,
        models: tuple[Model, ...],
        base_url: str,
        secret: Secret,
        timeout: float,
        prices: PriceBook | None = None,
    ) -> None:
        if base_url:
            check_base_url(base_url)
        self._base_url = base_url.rstrip("/")
        self._models = tuple(self._place(model) for model in models)
        self._secret = secret
        self._timeout = timeout
        self._prices = prices or PriceBook()

    @property
    def models(self) -> tuple[Model, ...]:
        """With the prices of today."""
        return tuple(map(self._priced, self._models))

    def estimate_nano(self, request: ModelRequest) -> int | None:
        return self._reserve(self.choose(request)[0], request)[0]

    def hosts(self, request: ModelRequest) -> tuple[str, ...]:
        """`host:port` that the request would be sent to; nothing for the built-in provider."""
        model = self.choose(request)[0]
        if model.via == "builtin":
            return ()
        if model.via == "litellm":
            return (f"{model.provider} (by litellm)",)
        parts = urlsplit(model.base_url)
        return (f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}",)

    def choose(self, request: ModelRequest) -> tuple[Model, tuple[str, ...]]:
        """The model for the request, and notes. Raises ModelError (`model-unknown`, `model-route`, ...)."""
        if request.model is None:
            return choose_model(
                self.models, request, self._usable, lambda model: self._reserve(model, request)[0]
            )
        model = self._find(request.model, request.provider)
        region = request.route.get("region") or request.region
        if not fits_region(model, region):
            raise ModelError(
                f"the model {model.name!r} is not served in region {region}",
                remedy="choose a model of that region, or state its regions in resources/models.yaml",
                code="model-region",
            )
        if not self._usable(model):
            raise ModelError(
                f"there is no key for the model {model.name!r}",
                place=f"secret {model.key or '(none named)'}",
                remedy="give the key under that name, or leave the model out to use what is configured",
                code="model-unreachable",
            )
        return model, ()

    async def generate(self, request: ModelRequest, ledger: CallLedger) -> ModelReply:
        model, notes = self.choose(request)
        reserved, tokens = self._reserve(model, request)
        call_id = await ledger.intend(
            model.provider, model.name, reserved, reserved_tokens=tokens, price=model.price.name
        )
        began = time.monotonic()
        try:
            raw = await self._call(model, request)
        except ModelError as error:
            # An answer that refuses was not billed; one that never came may have been, up to the reserve.
            usage = ModelUsage(0, 0, cost_nano=0, price=model.price.name) if error.answered else None
            await asyncio.shield(ledger.settle(call_id, usage, error.error_code))
            raise
        except asyncio.CancelledError:
            await asyncio.shield(ledger.settle(call_id, None, "cancelled"))
            raise
        usage = model.price.price_usage(raw.usage)
        problem = check_text(raw.text)
        await asyncio.shield(ledger.settle(call_id, usage, problem and "model-degenerate"))
        if problem:
            raise _degenerate(model, problem)
        return ModelReply(
            text=raw.text,
            provider=model.provider,
            model=model.name,
            usage=usage,
            latency_ms=round((time.monotonic() - began) * 1000),
            generative=model.via != "builtin",
            finish_reason=raw.finish_reason,
            notes=(*notes, *raw.notes),
            cpu_seconds=raw.cpu_seconds,
        )

    async def _call(self, model: Model, request: ModelRequest) -> RawReply:
        if model.via == "builtin":
            from maestro_dagster.llm.builtin import answer_extractive

            return await asyncio.to_thread(answer_extractive, request)
        request = replace(request, max_tokens=self._max_tokens(model, request))
        key = (self._secret(model.key) if model.key else None) or ""
        if model.via == "wire":
            from maestro_dagster.llm.wire import call_endpoint

            return await call_endpoint(model, request, key, self._timeout)
        from maestro_dagster.llm.bridge import call_litellm

        return await call_litellm(model, request, key, self._timeout)

    def _max_tokens(self, model: Model, request: ModelRequest) -> int:
        return min(request.max_tokens or DEFAULT_MAX_TOKENS, model.max_output)

    def _reserve(self, model: Model, request: ModelRequest) -> tuple[int | None, int]:
        """(nano-USD, tokens) that the call uses at most: no tokeniser makes more tokens than bytes."""
        if model.via == "builtin":
            return 0, 0
        tokens_in = sum(len(message["content"].encode()) + 16 for message in request.messages)
        tokens_out = self._max_tokens(model, request)
        return model.price.reserve_nano(tokens_in, tokens_out), tokens_in + tokens_out

    def _usable(self, model: Model) -> bool:
        if model.via == "builtin":
            return True
        if model.key and self._secret(model.key):
            return True
        return model.via == "wire" and (not model.key or self._redirected(model))

    def _redirected(self, model: Model) -> bool:
        return bool(self._base_url) and model.base_url == self._base_url

    def _place(self, model: Model) -> Model:
        if self._base_url and model.provider == "openai":
            return replace(model, via="wire", base_url=self._base_url)
        if model.base_url:
            check_base_url(model.base_url)
        return model

    def _priced(self, model: Model) -> Model:
        price = self._prices.price_of(model, _today())
        return model if price is model.price else replace(model, price=price)

    def _find(self, name: str, provider: str | None) -> Model:
        if provider == "builtin" or name in (BUILTIN.name, f"builtin/{BUILTIN.name}"):
            return BUILTIN
        wanted = None if provider in ANY_PROVIDER else provider
        for model in self._models:
            if model.name == name and wanted in (None, model.provider):
                return self._priced(model)
        known = price_map.find_model(name, wanted)
        price = self._prices.find((known.name if known else name,), _today())
        if self._base_url:
            return Model(
                name, wanted or "openai-compatible", "wire", name, price, base_url=self._base_url,
                key="OPENAI_API_KEY", context=known.context if known else 8192,
                max_output=known.max_output if known else 4096,
            )  # fmt: skip
        if known:
            return replace(known, price=price)
        raise ModelError(
            f"the model {name!r} is unknown",
            remedy=suggest_names(name, self._models) + "add it to resources/models.yaml",
            code="model-unknown",
        )


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def _degenerate(model: Model, problem: str) -> ModelError:
    error = ModelError(
        f"the model {model.name!r} answered {problem}",
        remedy="try again, or name another model"
        if model.via != "builtin"
        else "give it prose to choose from",
        code="model-degenerate",
    )
    error.retryable = model.via != "builtin"
    return error


def check_base_url(url: str) -> None:
    """Raises ModelError (`base-url-invalid`). Private addresses are the operator's choice here."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        parts, valid = urlsplit(""), False
    if not valid or parts.username or parts.password or parts.query or parts.fragment:
        raise ModelError(
            "the base URL of a model endpoint is not a plain http(s) URL",
            place=f"{parts.scheme}://{parts.hostname}" if valid else "",
            remedy="write scheme, host, port and path only; keys are secrets, never part of a URL",
            code="base-url-invalid",
        )
