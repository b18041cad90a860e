"""The one line that the loop says of a run's start, and the one of its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maestro_dagster.engine.interface import RunView

_LONGEST_FACT = 300


def start_line(view: RunView, word: str) -> str:
    """`release rabc starts, shop@refs/heads/main`."""
    return _line(f"{_name(view)} {word}{_place(view)}")


def end_line(view: RunView, seconds: float | None) -> str:
    """`release rabc failed after 2.1 s, shop@refs/heads/main: <the first error's fact>`.

    `seconds` is how long the loop saw it run; the journal's own times are taken when they are there.
    """
    if view.started_at is not None and view.finished_at is not None:
        seconds = view.finished_at - view.started_at
    took = "" if seconds is None else f" after {seconds:.1f} s"
    fact = _first_fact(view)
    return _line(f"{_name(view)} {view.status}{took}{_place(view)}{f': {fact}' if fact else ''}")


def _first_fact(view: RunView) -> str:
    if view.status == "succeeded":
        return ""
    failed = next((step for step in view.steps if step.status == "failed" and step.error), None)
    told = [view.error or {}, (failed.error or {}) if failed else {}]
    fact = next((each["fact"] for each in told if each.get("fact")), "")
    if not fact and view.decision:
        verdicts = view.decision.get("verdicts", ())
        fact = next((each["message"] for verdict in verdicts for each in verdict["violations"]), "")
    first = fact.strip().splitlines()[:1]  # of foreign code it is all that the command said
    return first[0][:_LONGEST_FACT] if first else ""


def _name(view: RunView) -> str:
    return f"{view.flow} {view.run_id}"


def _place(view: RunView) -> str:
    return f", {view.partition}" if view.partition else ""


def _line(text: str) -> str:
    """Branches and errors are others' words: nothing in them moves the cursor or colours the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
