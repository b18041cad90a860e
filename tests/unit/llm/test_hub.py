from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llm_support import KEY, MODELS, Ledger, MakeHub, Provider

from maestro_dagster.errors import ModelError
from maestro_dagster.llm.catalogue import read_models
from maestro_dagster.llm.hub import Hub, check_base_url, open_hub
from maestro_dagster.llm.interface import ModelRequest

HELLO = ({"role": "user", "content": "Hello"},)


def ask(**values: Any) -> ModelRequest:
    return ModelRequest(HELLO, **values)


def chosen(hub: Hub, **values: Any) -> str:
    return hub.choose(ask(**values))[0].name


def refused(hub: Hub, **values: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        hub.choose(ask(**values))
    return caught.value


def test_without_a_name_the_cheapest_that_fits_is_taken(make_hub: MakeHub) -> None:
    hub = make_hub("http://127.0.0.1:1/v1")
    assert chosen(hub) == "small"
    assert chosen(hub, route={"quality_floor": 0.8}) == "large"
    assert chosen(hub, route={"max_p95_ms": 700, "minimise": "cost"}) == "small"
    assert chosen(hub, region="US") == "large"
    assert chosen(hub, route={"region": "US", "minimise": "latency"}) == "large"


def test_a_route_that_nothing_fits_is_refused_with_the_reason_for_each(make_hub: MakeHub) -> None:
    error = refused(make_hub("http://127.0.0.1:1/v1"), route={"max_p95_ms": 700, "quality_floor": 0.8})
    assert error.error_code == "model-route"
    assert "small: quality 0.5" in error.fact
    assert "large: p95 of 900 ms" in error.fact
    assert "unpriced: price unknown" in error.fact


def test_without_any_key_the_built_in_provider_answers_and_says_so(make_hub: MakeHub) -> None:
    hub = make_hub(key=None)
    model, notes = hub.choose(ask(route={"quality_floor": 0.99}))
    assert model.via == "builtin"
    assert "no model provider is configured" in notes[0]
    assert hub.estimate_nano(ask()) == 0
    assert hub.hosts(ask()) == ()


def test_a_named_model_is_never_replaced_by_another(make_hub: MakeHub) -> None:
    offline = make_hub(key=None)
    error = refused(offline, model="small")
    assert (error.error_code, error.place) == ("model-unreachable", "secret OPENAI_API_KEY")
    assert refused(offline, provider="openai").error_code == "model-unreachable"
    assert refused(make_hub("http://127.0.0.1:1"), model="small", region="US").error_code == "model-region"
    assert chosen(make_hub("http://127.0.0.1:1"), model="small", provider="litellm") == "small"


def test_an_unknown_model_is_refused_or_asked_of_the_endpoint_at_an_unknown_price(make_hub: MakeHub) -> None:
    error = refused(make_hub(), model="smal")
    assert error.error_code == "model-unknown"
    assert "small" in error.remedy
    hub = make_hub("http://127.0.0.1:1/v1")
    model, _ = hub.choose(ask(model="llama-at-home"))
    assert (model.via, model.base_url) == ("wire", "http://127.0.0.1:1/v1")
    assert hub.estimate_nano(ask(model="llama-at-home")) is None


def test_a_model_of_the_shipped_price_list_needs_its_providers_key(make_hub: MakeHub) -> None:
    model, _ = make_hub().choose(ask(model="deepseek/deepseek-chat"))
    assert (model.via, model.provider, model.key) == ("litellm", "deepseek", "DEEPSEEK_API_KEY")
    assert model.price.cost_nano(10_000, 2_000, cached=4_000) == 2_632_000
    assert refused(make_hub(key=None), model="deepseek/deepseek-chat").error_code == "model-unreachable"


def test_hosts_are_named_for_the_policy(make_hub: MakeHub) -> None:
    assert make_hub("http://127.0.0.1:8080/v1").hosts(ask(model="small")) == ("127.0.0.1:8080",)


def test_max_tokens_stay_within_the_model(make_hub: MakeHub) -> None:
    hub = make_hub("http://127.0.0.1:1")
    assert hub.estimate_nano(ask(model="small", max_tokens=10**6)) == hub.estimate_nano(
        ask(model="small", max_tokens=500)
    )


async def test_an_unknown_price_is_an_unknown_cost(
    provider: Provider, ledger: Ledger, make_hub: MakeHub
) -> None:
    answer = await make_hub(provider.url).generate(ask(model="unpriced"), ledger)
    assert ledger.rows[0][3] is None
    assert answer.usage.cost_nano is None


async def test_the_key_is_nowhere_in_what_is_written_down(
    provider: Provider, ledger: Ledger, make_hub: MakeHub
) -> None:
    answer = await make_hub(provider.url).generate(ask(model="small"), ledger)
    assert KEY not in repr((answer, ledger.rows, make_hub(provider.url).models))


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x/", "http://", "http://u:p@host/v1", "http://host/v1?key=1", "http://host:99999/", "x"],
)
def test_a_base_url_is_plain(url: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_base_url(url)
    assert caught.value.error_code == "base-url-invalid"
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    "document",
    [
        None,
        {"version": 1, "models": []},
        {"version": 1, "priced_at": "x", "models": {}},
        {"version": 1, "priced_at": "x", "models": ["a"]},
        {"version": 1, "priced_at": "x", "models": [{"name": "a"}]},
        {"version": 1, "priced_at": "x", "models": [{"name": "a", "provider": "p", "colour": "red"}]},
        {"version": 1, "priced_at": "x", "models": [{"name": "a", "provider": "p", "price": "free"}]},
        {"version": 1, "priced_at": "x", "models": [{"name": "a", "provider": "p", "price": {"input": 0.1}}]},
        {"version": 1, "priced_at": "x", "models": [{"name": "a", "provider": "p", "price": {"input": "0"}}]},
        {"version": 1, "priced_at": "x", "models": [{"name": "a", "provider": "p", "price": {"in": "1"}}]},
        {"version": 1, "priced_at": "x", "models": [{"name": "a", "provider": "p", "price": {"above": [1]}}]},
        {"version": 1, "priced_at": "x", "models": [{"name": "a", "provider": "p", "p95_ms": "fast"}]},
        {"version": 1, "priced_at": "x", "models": [{"name": "a", "provider": "p"}] * 2},
    ],
)
def test_a_wrong_catalogue_is_refused(document: Any) -> None:
    with pytest.raises(ModelError) as caught:
        read_models(document, place="models.yaml")
    assert caught.value.error_code == "models-invalid"


def test_the_shipped_catalogue_reads_and_agrees_with_the_price_list(repository: Path) -> None:
    from maestro_dagster.llm import price_map

    hub = open_hub(repository / "resources" / "models.yaml", secret=lambda name: None)
    assert chosen(hub) == "extractive"
    priced = 0
    for model in hub.models:
        known = price_map.find_model(model.name)
        if known is not None:
            priced += 1
            assert known.price.rates.input == model.price.rates.input, model.name
            assert known.price.rates.output == model.price.rates.output, model.name
    assert priced >= 3


def test_a_missing_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        open_hub(tmp_path / "models.yaml")
    assert caught.value.error_code == "models-missing"


@pytest.mark.soak
async def test_litellm_serves_other_providers_and_is_imported_only_then(tmp_path: Path) -> None:
    """In a process of its own: the import takes seconds and stays in memory."""
    models = tmp_path / "models.yaml"
    models.write_text(
        MODELS + "  - {name: far, provider: deepseek, key: K, price: {input: '1', output: '2'}}\n"
    )
    code = f"""
import asyncio, json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import support
from dataclasses import replace
from maestro_dagster.errors import ModelError
from maestro_dagster.llm.hub import Hub
from maestro_dagster.llm.catalogue import read_catalogue
from maestro_dagster.llm.interface import ModelRequest
from pathlib import Path

async def main():
    provider = support.Provider(replies=[
        support.http_reply(429, b'{{"error": {{"message": "slow down {KEY}"}}}}', "Retry-After: 3\\r\\n"),
        support.http_reply(200, json.dumps(support.chat_body()).encode()),
    ])
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider.port = server.sockets[0].getsockname()[1]
    models = read_catalogue(Path({str(models)!r}))
    models = tuple(replace(m, base_url=provider.url) if m.name == "far" else m for m in models)
    hub = Hub(models, "", lambda name: {KEY!r}, 10.0)
    assert "litellm" not in sys.modules
    request = ModelRequest(({{"role": "user", "content": "Hello"}},), model="far", max_tokens=9)
    ledger = support.Ledger()
    try:
        await hub.generate(request, ledger)
    except ModelError as error:
        print(error.retryable, error.answered, {KEY!r} in str(error))
    answer = await hub.generate(request, ledger)
    print(answer.text, answer.usage.cost_nano, answer.provider, len(provider.requests))
    server.close()

asyncio.run(main())
"""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["True True False", f"A fine answer. {100_000 + 40_000} deepseek 2"], (
        done.stderr
    )
