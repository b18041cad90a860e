from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from maestro_dagster.errors import StepError
from maestro_dagster.steps import catalogue as module
from maestro_dagster.steps.catalogue import BUILT_IN, Catalogue, load_catalogue
from maestro_dagster.steps.interface import StepConfig, StepKind


class Shout(StepKind[StepConfig]):
    uses = "pkg:acme/shout@1.0.0"
    summary = "Shout."
    config = StepConfig


NOT_A_KIND = 42


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(uses: str, value: str) -> None:
        monkeypatch.setattr(module, "_entry_points", lambda: {uses: EntryPoint(uses, value, module.GROUP)})

    return install


@pytest.mark.parametrize("uses", sorted(BUILT_IN))
def test_every_built_in_kind_is_what_its_row_says(uses: str) -> None:
    if importlib.util.find_spec(BUILT_IN[uses].partition(":")[0]) is None:
        pytest.skip("not written yet")
    kind = Catalogue().kind(uses)
    assert kind.uses == uses
    assert kind.summary
    assert kind.asset == Catalogue().is_asset(uses)
    assert Catalogue().config_schema(uses)["type"] == "object"
    assert Catalogue().config_schema(uses)["additionalProperties"] is False


def test_an_unknown_kind_is_refused_with_what_is_nearest() -> None:
    with pytest.raises(StepError) as caught:
        load_catalogue().kind("pkg:http/gett@1.0.0")
    assert caught.value.error_code == "kind-unknown"
    assert "pkg:http/get@1.0.0" in caught.value.remedy
    assert load_catalogue().config_schema("pkg:http/gett@1.0.0") is None


def test_an_unknown_version_of_a_known_kind_is_unknown() -> None:
    with pytest.raises(StepError, match="no step kind"):
        load_catalogue().kind("pkg:http/get@2.0.0")


def test_a_third_party_adds_a_kind_by_entry_point(third_party: Any) -> None:
    third_party("pkg:acme/shout@1.0.0", f"{__name__}:Shout")
    sys.modules[__name__] = sys.modules.get(__name__) or importlib.import_module(__name__)
    catalogue = Catalogue()
    assert "pkg:acme/shout@1.0.0" in catalogue.uses()
    assert type(catalogue.kind("pkg:acme/shout@1.0.0")).__name__ == "Shout"
    assert catalogue.is_asset("pkg:acme/shout@1.0.0")


def test_a_third_party_cannot_replace_a_built_in_kind(third_party: Any) -> None:
    third_party("pkg:text/template@1.0.0", "os:path")
    assert type(Catalogue().kind("pkg:text/template@1.0.0")).__name__ == "TextTemplate"


@pytest.mark.parametrize("value", ["no_such_module_here:Kind", "json:JSONDecoder", "json:no_such_name"])
def test_a_broken_third_party_is_a_coded_error(third_party: Any, value: str) -> None:
    third_party("pkg:acme/broken@1.0.0", value)
    with pytest.raises(StepError) as caught:
        Catalogue().kind("pkg:acme/broken@1.0.0")
    assert caught.value.error_code == "kind-broken"


def test_kinds_import_nothing_heavy() -> None:
    names = [target.partition(":")[0] for target in BUILT_IN.values()]
    present = [name for name in names if importlib.util.find_spec(name)]
    heavy = ("dagster", "litellm", "polars", "pyarrow", "duckdb", "pandas", "aiohttp", "jinja2", "feedparser")
    code = (
        f"import sys, importlib\nfor name in {present!r}: importlib.import_module(name)\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
