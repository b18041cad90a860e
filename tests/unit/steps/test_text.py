from __future__ import annotations

import time
from typing import Any

import pytest

from maestro_dagster.errors import StepError
from maestro_dagster.steps.template_text import is_linear
from maestro_dagster.steps.text_template import TextTemplate


async def render(bench: Any, template: str, inputs: dict[str, Any] | None = None, **config: Any) -> str:
    result = await bench.run(TextTemplate(), {"template": template, **config}, **(inputs or {}))
    return bench.content(result).decode()


async def fault(bench: Any, template: str, inputs: dict[str, Any] | None = None, **config: Any) -> StepError:
    with pytest.raises(StepError) as caught:
        await render(bench, template, inputs, **config)
    return caught.value


async def test_values_and_inputs_are_seen(bench: Any) -> None:
    inputs = {"a": bench.put('{"n": [1, 2]}', "application/json"), "b": bench.put("text", "text/plain")}
    template = (
        "{{ who }}: {{ inputs.a.n[1] }} {{ inputs.b }}{% for n in inputs['a'].n %} {{ n }}{% endfor %}\n"
    )
    assert await render(bench, template, inputs, values={"who": "Ada"}) == "Ada: 2 text 1 2\n"


async def test_a_single_input_has_a_short_name(bench: Any) -> None:
    assert await render(bench, "{{ input.x }}", {"a": bench.put('{"x": 3}', "application/json")}) == "3"


async def test_escaping_is_chosen(bench: Any) -> None:
    assert await render(bench, "{{ x }}", values={"x": "<b>"}) == "<b>"
    assert await render(bench, "{{ x }}", values={"x": "<b>"}, escape="html") == "&lt;b&gt;"


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{{ nothing }}", "template-render"),
        ("{{ values.x }}", "template-render"),
        ("\n\n{{ x.y.z }}", "template-render"),
        ("{% include '/etc/passwd' %}", "template-render"),
        ("{% for %}", "template-syntax"),
        ("{{", "template-syntax"),
        ("{{ x | no_such_filter }}", "template-render"),
        ("{{ 1 / 0 }}", "template-render"),
        ("{{ ().__class__.__base__.__subclasses__() }}", "template-render"),
        ("{{ ''.__class__.mro() }}", "template-render"),
        ("{{ x.__init__.__globals__ }}", "template-render"),
        ("{{ '{0.__class__}'.format(x) }}", "template-render"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "template-render"),
        ("{{ [].append(1) }}", "template-render"),
        ("{{ lipsum(n=100) }}", "template-render"),
        ("(" * 5 + "{{ " + "(" * 500 + "x" + ")" * 500 + " }}", "template-syntax"),
    ],
)
async def test_what_must_not_be_rendered_is_not(bench: Any, template: str, code: str) -> None:
    error = await fault(bench, template, values={"x": "y"})
    assert error.error_code == code, error


async def test_the_line_of_an_error_is_named(bench: Any) -> None:
    assert "line 3" in (await fault(bench, "a\nb\n{{ gone }}")).place
    assert "line 2" in (await fault(bench, "a\n{% for %}")).place


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 2000000000 }}",
        "{{ 'x'.ljust(2000000000) }}",
        "{{ '%2000000000d' | format(1) }}",
        "{{ 2 ** 99999999 }}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(1) }}",
        "{% set n = namespace(x='xxxxx') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    ],
)
async def test_time_and_memory_are_bounded(
    bench: Any, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maestro_dagster.steps.text_template.WALL_SECONDS", 1.0)
    started = time.monotonic()
    error = await fault(bench, template)
    assert error.error_code in {"step-too-slow", "step-too-large", "template-render", "template-too-large"}
    assert time.monotonic() - started < 20


async def test_output_is_bounded(bench: Any) -> None:
    error = await fault(
        bench, "{% for n in x %}{{ n }}{% endfor %}", values={"x": ["y" * 100] * 100}, max_bytes=500
    )
    assert error.error_code == "template-too-large"


@pytest.mark.parametrize(
    ("template", "linear"),
    [
        ("plain", True),
        ("{{ a.b['c'] | upper }}{% if a and not b %}x{% endif %}", True),
        ("{% for a in b %}{{ a }}{% endfor %}{% for a in b %}{{ a }}{% endfor %}", True),
        ("{% for a in b %}{% for c in a %}{{ c }}{% endfor %}{% endfor %}", False),
        ("{% for a in b %}{% if a %}{% for c in a %}{% endfor %}{% endif %}{% endfor %}", False),
        ("{% for a in b recursive %}{% endfor %}", False),
        ("{{ a * b }}", False),
        ("{{ a.ljust(3) }}", False),
        ("{{ a ~ b }}", False),
        ("{{ a | center(100) }}", False),
        ("{% set a = b %}", False),
        ("{% set a %}{{ b }}{% endset %}", False),
        ("{% macro a() %}{% endmacro %}", False),
        ("{% filter upper %}{% endfilter %}", False),
    ],
)
def test_only_plainly_linear_templates_are_rendered_in_process(template: str, linear: bool) -> None:
    assert is_linear(template, "here") is linear


async def test_both_ways_of_rendering_agree(bench: Any) -> None:
    plain = await render(bench, "{% for n in x %}{{ n | tojson }}{% endfor %}é", values={"x": [1, "<é>"]})
    child = await render(
        bench, "{% for n in x %}{{ n | tojson }}{% endfor %}{{ '' ~ 'é' }}", values={"x": [1, "<é>"]}
    )
    assert plain == child


async def test_an_input_that_is_no_text_is_refused(bench: Any) -> None:
    error = await fault(bench, "{{ input }}", {"a": bench.put(b"\xff\xfe\x00", "application/octet-stream")})
    assert error.error_code == "input-not-text"
    error = await fault(bench, "{{ input }}", {"a": bench.put(b"{nope", "application/json")})
    assert error.error_code == "input-not-json"


async def test_memory_is_bounded_by_the_kernel(bench: Any) -> None:
    assert (await fault(bench, "{{ 'x' * 2000000000 }}")).error_code == "step-too-large"
