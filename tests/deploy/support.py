"""What the tests of deploy/ share: running outside tools, reading YAML, knowing what /metrics serves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.telemetry.name import METRICS

DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
RECORD = re.compile(r"(?m)^\s+- record: (\S+)$")
_FOREIGN = frozenset({"up"})  # made by Prometheus itself
_SERVER_LABELS = frozenset({"instance", "job", "pod", "le"})


def find_tool(name: str, remedy: str) -> str:
    if command := shutil.which(name):
        return command
    pytest.skip(f"no {name}: {remedy}")


def run_tool(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What it printed; fails the test with it where the tool is not content."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read_yaml(text: str) -> list[Any]:
    """The documents of a stream, empty ones left out."""
    from ruamel.yaml import YAML

    return [part for part in YAML(typ="safe").load_all(text) if part is not None]


def metric_names() -> dict[str, frozenset[str]]:
    """Every series that /metrics may serve -> the labels it may have."""
    names: dict[str, frozenset[str]] = {}
    for metric in METRICS:
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        for suffix in suffixes:
            names[metric.name + suffix] = frozenset(metric.labels) | _SERVER_LABELS
    return names


def check_expression(expression: str, recorded: frozenset[str]) -> Iterator[str]:
    """What the expression asks for and nobody serves. Its syntax is promtool's affair."""
    known = metric_names()
    plain = re.sub(r'"[^"]*"', '""', expression)
    names = set(re.findall(r"\b(?:maestro|mc|http|up)(?:_|\b)[a-z0-9_]*(?::[a-z0-9_]+)*", plain))
    for name in names - recorded - _FOREIGN - set(known):
        yield f"nobody serves {name}"
    for name, selector in re.findall(r"\b([a-z][a-z0-9_:]*)\{([^}]*)\}", plain):
        for label in re.findall(r"([a-z_]+)\s*(?:=|!)", selector):
            if name in known and label not in known[name]:
                yield f"{name} has no label {label}"
    labels = frozenset[str]().union(*(known[name] for name in names if name in known), {"status", "provider"})
    for group in re.findall(r"\b(?:by|ignoring|on)\s*\(([^)]*)\)", plain):
        for label in (part.strip() for part in group.split(",")):
            if label not in labels | _SERVER_LABELS:
                yield f"grouped by {label}, which none of {sorted(names)} has"
