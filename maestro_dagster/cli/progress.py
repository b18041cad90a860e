"""Tells how far long work is, on the standard error, once it has taken a while."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

_PATIENCE = 2.0  # seconds before the first line, and between lines


def show_progress() -> Callable[[str], None]:
    """A function that prints what it is told, every two seconds at most."""
    last = time.monotonic()

    def say(text: str) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _PATIENCE:
            last = now
            click.echo(text, err=True)

    return say
