"""The rendering behind `text/template`; runs in a child process unless the template is plainly linear."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from maestro_dagster.errors import StepError

if TYPE_CHECKING:
    from jinja2 import Environment

# Filters whose result is at most about as long as their input.
_LINEAR_FILTERS = frozenset(
    {
        "capitalize",
        "count",
        "d",
        "default",
        "e",
        "escape",
        "first",
        "float",
        "int",
        "last",
        "length",
        "lower",
        "tojson",
        "trim",
        "title",
        "upper",
    }
)


def is_linear(template: str, place: str) -> bool:
    """Whether rendering takes time and memory in proportion to the template and the data.

    True for names, conditions, harmless filters and loops that are not nested. Raises StepError for a
    template with wrong syntax.
    """
    from jinja2 import nodes

    tree = _parse(template, place)
    growing = (nodes.Call, nodes.Macro, nodes.FilterBlock, nodes.Concat, nodes.Assign, nodes.AssignBlock)
    if any(True for _ in tree.find_all(growing)):
        return False
    if any(not isinstance(found, nodes.And | nodes.Or) for found in tree.find_all(nodes.BinExpr)):
        return False
    if any(loop.recursive or any(loop.find_all(nodes.For)) for loop in tree.find_all(nodes.For)):
        return False
    return all(found.name in _LINEAR_FILTERS for found in tree.find_all(nodes.Filter))


def render_template(options: Mapping[str, Any], data: bytes) -> bytes:
    """Renders `options["template"]` over the JSON object `data`. Raises StepError (`template-*`)."""
    from jinja2 import TemplateError

    place, limit = options["place"], options["max_bytes"]
    _parse(options["template"], place)
    parts: list[bytes] = []
    size = 0
    try:
        # Constant expressions are computed here already, so that this too may fail.
        template = _environment(options["escape"]).from_string(options["template"])
        for part in template.generate(json.loads(data)):
            parts.append(part.encode())
            size += len(parts[-1])
            if size > limit:
                raise StepError(
                    f"the text is longer than {limit} bytes",
                    place=place,
                    remedy="raise max_bytes or shorten the template",
                    code="template-too-large",
                )
    except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as error:
        # What a template does to data of the wrong shape surfaces as Python's own errors.
        raise StepError(
            f"the template cannot be rendered: {error}",
            place=_line(error, place),
            remedy="every name must be given in `values` or come from an input; see `default()`",
            code="template-render",
        ) from error
    return b"".join(parts)


def _parse(template: str, place: str) -> Any:
    from jinja2 import TemplateSyntaxError

    try:
        return _environment("none").parse(template)
    except TemplateSyntaxError as error:
        raise StepError(
            f"the template is wrong: {error.message}",
            place=f"{place}, template line {error.lineno}",
            remedy="correct the template",
            code="template-syntax",
        ) from error
    except RecursionError as error:
        raise StepError(
            "the template is nested too deeply", place=place, remedy="simplify it", code="template-syntax"
        ) from error


def _line(error: BaseException, place: str) -> str:
    trace, found = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            found = trace.tb_lineno
        trace = trace.tb_next
    return place if found is None else f"{place}, template line {found}"


@lru_cache(maxsize=2)
def _environment(escape: str) -> Environment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=escape == "html",
        keep_trailing_newline=True,
        # No loader: a template cannot include files.
        loader=None,
        extensions=[],
    )
    # A global of Jinja2 that makes text out of nothing has no use here.
    environment.globals.pop("lipsum", None)
    return environment
