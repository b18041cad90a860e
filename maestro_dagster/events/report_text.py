"""The words of a report: one line for a status, Markdown for a check and for a comment.

Names and errors are the words of others, of the pushed commit for example. They only ever stand as code, in
which no link, no HTML and no mention of a person comes to life.
"""

from __future__ import annotations

from collections.abc import Sequence

from maestro_dagster.events.report import RunReport, StepLine, plain_name
from maestro_dagster.manifest.money import format_nano

LONGEST_LINE = 140  # characters of a description: the least that a forge takes (GitHub)
LONGEST_TEXT = 30_000  # characters of a comment: below what any of the forges takes
_LONGEST_PROBLEM = 300
_WORDS = {"requested": "is waiting", "running": "is running"}
_GOING = frozenset(_WORDS)
_ORDER = ("failed", "denied", "cancelled", "running", "requested", "succeeded")


def describe(report: RunReport) -> str:
    """One line: `succeeded in 3.2 s, 4 steps, 0.0012 USD, evidence sha256:0123456789ab`."""
    if report.standing in _GOING:
        return f"The run {_WORDS[report.standing]}."
    parts = [f"{report.standing}{_took(report)}", _count_steps(report)]
    if report.cost_nano is not None:
        parts.append(f"{format_nano(report.cost_nano)} USD")
    parts.append(f"evidence {short_digest(report.evidence)}" if report.evidence else "no evidence")
    return _clip(", ".join(parts), LONGEST_LINE)


def make_title(report: RunReport) -> str:
    return _clip(f"{_plain(report.flow)} {_WORDS.get(report.standing, report.standing)}", LONGEST_LINE)


def make_summary(report: RunReport) -> str:
    """Markdown: what came of the run, a table of its steps, and how to check its evidence."""
    parts = [_facts(report)]
    if report.steps:
        parts.append(_step_table(report.steps, report.more_steps))
    if report.evidence:
        parts.append(_proof([report]))
    return _clip("\n\n".join(parts), LONGEST_TEXT)


def make_comment(reports: Sequence[RunReport], *, html: bool) -> str:
    """Markdown: a line for each flow of a pull request's commit, the steps of each below."""
    ordered = sorted(reports, key=lambda report: (_ORDER.index(report.standing), report.flow))
    head = f"### Maestro: {_headline(ordered)}"
    parts = [head, _flow_table(ordered)]
    parts += [f"{code(report.flow)}: {code(report.problem)}" for report in ordered if report.problem]
    if any(report.evidence for report in ordered):
        parts.append(_proof(ordered))
    parts.append(f"Commit {code(ordered[0].sha[:12])}" if ordered else "")
    room = LONGEST_TEXT - sum(len(part) + 2 for part in parts)
    for report in ordered:
        block = _details(report, html=html)
        room -= len(block) + 2
        if room < 0:
            break  # what is left out stands in the run
        if block:
            parts.insert(-1, block)
    return _clip("\n\n".join(part for part in parts if part), LONGEST_TEXT)


def code(text: str) -> str:
    """Words of others as code that ends where it should, also in a table."""
    plain = _clip(_plain(text), _LONGEST_PROBLEM).replace("`", "'").replace("|", "\N{BROKEN BAR}")
    return f"`{plain}`" if plain.strip() else ""


def short_digest(digest: str) -> str:
    return digest[: len("sha256:") + 12]


def _headline(reports: Sequence[RunReport]) -> str:
    """The worst comes first: `2 of 3 flows failed`."""
    if not reports:
        return "nothing ran"
    worst = reports[0].standing
    count = sum(1 for report in reports if report.standing == worst)
    word = _WORDS.get(worst, worst)
    if count == len(reports):
        return f"{'the flow' if count == 1 else f'all {count} flows'} {_plural(word, count)}"
    return f"{count} of {len(reports)} flows {_plural(word, count)}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else word.replace("is ", "are ")


def _facts(report: RunReport) -> str:
    lines = [f"Flow {code(report.flow)}, commit {code(report.sha[:12])}, run {_run(report)}"]
    if report.standing not in _GOING:
        lines.append(f"**{report.standing}**{_took(report)}, {_cost(report.cost_nano)}")
    if report.problem:
        lines.append(code(report.problem))
    return "  \n".join(lines)


def _flow_table(reports: Sequence[RunReport]) -> str:
    rows = [
        [
            code(report.flow),
            _run(report),
            report.standing if report.standing in _GOING else f"**{report.standing}**",
            _took(report).removeprefix(" in "),
            "" if report.standing in _GOING else _cost(report.cost_nano),
            code(short_digest(report.evidence)) if report.evidence else "",
        ]
        for report in reports
    ]
    return _table(["flow", "run", "result", "time", "cost", "evidence"], rows)


def _step_table(steps: Sequence[StepLine], more: int) -> str:
    rows = [
        [
            code(step.step),
            code(step.uses.removeprefix("pkg:")),
            step.status,
            f"{step.duration_ms / 1000:.1f} s" if step.duration_ms else "",
            _cost(step.cost_nano),
        ]
        for step in steps
    ]
    if more:
        rows.append([f"and {more} more", "", "", "", ""])
    return _table(["step", "kind", "result", "time", "cost"], rows)


def _details(report: RunReport, *, html: bool) -> str:
    if not report.steps:
        return ""
    table = _step_table(report.steps, report.more_steps)
    if html:
        head = f"{plain_name(report.flow)}: {_count_steps(report)}"
        return f"<details><summary>{head}</summary>\n\n{table}\n\n</details>"
    return f"Steps of {code(report.flow)}\n\n{table}"


def _count_steps(report: RunReport) -> str:
    count = len(report.steps) + report.more_steps
    return f"{count} step{'' if count == 1 else 's'}"


def _proof(reports: Sequence[RunReport]) -> str:
    lines = [f"{report.run_id}.zip  {report.evidence}" for report in reports if report.evidence]
    listed = "\n".join(lines)
    return f"Evidence, checked offline by `maestro verify <run>.zip`:\n\n```\n{listed}\n```"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _run(report: RunReport) -> str:
    return f"[{code(report.run_id)}]({report.url})" if report.url else code(report.run_id)


def _took(report: RunReport) -> str:
    if report.started_at is None or report.finished_at is None:
        return ""
    return f" in {max(0.0, report.finished_at - report.started_at):.1f} s"


def _cost(nano: int | None) -> str:
    return "price not known" if nano is None else f"{format_nano(nano)} USD"


def _plain(text: str) -> str:
    """One line that a terminal and a page show as it is; nothing in it turns the writing around."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _clip(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
