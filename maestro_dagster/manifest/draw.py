"""A flow's graph as text that others draw (Mermaid, DOT) and as a picture of its own (SVG)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

from maestro_dagster.manifest.graph import topological_order
from maestro_dagster.manifest.model import Flow, Task

_WIDTH, _HEIGHT = 190, 48  # of a box, in pixels
_GAP_X, _GAP_Y, _MARGIN = 60, 24, 16
_MOST_LETTERS = 24


def draw_mermaid(flow: Flow) -> str:
    """A Mermaid flowchart. Nodes are numbered, so that no id can end its own label."""
    numbers = _numbers(flow)
    lines = ["flowchart LR"]
    for task in flow.tasks:
        opening, closing = ("{{", "}}") if is_control(task) else ("[", "]")
        lines.append(f'  n{numbers[task.id]}{opening}"{task.id}<br/>{short_kind(task)}"{closing}')
    lines += [f"  n{numbers[need]} --> n{numbers[step]}" for need, step in _edges(flow)]
    return "\n".join(lines) + "\n"


def draw_dot(flow: Flow) -> str:
    """A Graphviz digraph."""
    lines = [f'digraph "{flow.name}" {{', "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    for task in flow.tasks:
        shape = ", shape=hexagon" if is_control(task) else ""
        lines.append(f'  "{task.id}" [label="{task.id}\\n{short_kind(task)}"{shape}];')
    lines += [f'  "{need}" -> "{step}";' for need, step in _edges(flow)]
    return "\n".join([*lines, "}"]) + "\n"


def draw_svg(flow: Flow) -> str:
    """One SVG document without script: a column for each distance from the start."""
    places = _places(flow)
    columns = max(x for x, _ in places.values()) + 1
    rows = max(y for _, y in places.values()) + 1
    width = 2 * _MARGIN + columns * _WIDTH + (columns - 1) * _GAP_X
    height = 2 * _MARGIN + rows * _HEIGHT + (rows - 1) * _GAP_Y
    body = [*_lines(flow, places), *_boxes(flow, places)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="Graph of {escape(flow.name)}" '
        'font-family="system-ui, sans-serif" font-size="13">\n'
        f"<title>{escape(flow.name)} {escape(flow.version)}</title>\n" + "\n".join(body) + "\n</svg>\n"
    )


def short_kind(task: Task) -> str:
    """`http/get` of `pkg:http/get@1.0.0`."""
    return task.uses.removeprefix("pkg:").partition("@")[0]


def is_control(task: Task) -> bool:
    return task.uses.startswith("pkg:control/")


def _numbers(flow: Flow) -> dict[str, int]:
    return {task.id: number for number, task in enumerate(flow.tasks)}


def _edges(flow: Flow) -> Iterator[tuple[str, str]]:
    for task in flow.tasks:
        for need in dict.fromkeys(task.needs):
            yield need, task.id


def _places(flow: Flow) -> dict[str, tuple[int, int]]:
    """Column and row of each step; a row near the mean of what it needs keeps the lines short."""
    tasks = {task.id: task for task in flow.tasks}
    places: dict[str, tuple[int, int]] = {}
    taken: dict[int, set[int]] = {}
    for step in topological_order(flow):
        before = [places[need] for need in tasks[step].needs]
        column = max((x for x, _ in before), default=-1) + 1
        wanted = round(sum(y for _, y in before) / len(before)) if before else 0
        used = taken.setdefault(column, set())
        row = next(y for y in range(wanted, wanted + len(used) + 1) if y not in used)
        used.add(row)
        places[step] = (column, row)
    return places


def _corner(place: tuple[int, int]) -> tuple[int, int]:
    return _MARGIN + place[0] * (_WIDTH + _GAP_X), _MARGIN + place[1] * (_HEIGHT + _GAP_Y)


def _lines(flow: Flow, places: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    for need, step in _edges(flow):
        left, top = _corner(places[need])
        right, bottom = _corner(places[step])
        x, y = left + _WIDTH, top + _HEIGHT // 2
        end = bottom + _HEIGHT // 2
        bend = (right - x) // 2
        yield (
            f'<path d="M{x} {y} C{x + bend} {y} {right - bend} {end} {right} {end}" '
            'fill="none" stroke="#7a869a" stroke-width="1.5"/>'
        )


def _boxes(flow: Flow, places: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    for task in flow.tasks:
        x, y = _corner(places[task.id])
        fill, edge = ("#fff4e0", "#c77700") if is_control(task) else ("#eef4ff", "#3563c9")
        middle = x + _WIDTH // 2
        yield (
            f'<g><title>{escape(task.id)}: {escape(task.uses)}</title><rect x="{x}" y="{y}" width="{_WIDTH}" '
            f'height="{_HEIGHT}" rx="8" fill="{fill}" stroke="{edge}"/>'
            f'<text x="{middle}" y="{y + 20}" text-anchor="middle" fill="#14213d">{_cut(task.id)}</text>'
            f'<text x="{middle}" y="{y + 37}" text-anchor="middle" fill="#5b6778" font-size="11">'
            f"{_cut(short_kind(task))}</text></g>"
        )


def _cut(text: str) -> str:
    return escape(text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 1] + "…")
