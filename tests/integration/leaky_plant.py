"""Secrets of many shapes: what is planted where, the project that says them, and the search for them."""

from __future__ import annotations

import base64
import json
import os
import random
import sqlite3
import string
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leaky_kind import forms

from maestro_dagster.project.root import Project, find_project
from maestro_dagster.project.scaffold import init_project
from maestro_dagster.project.secret import secret_variable

SOAK = os.environ.get("MAESTRO_SOAK") == "1"
COUNT = 1000 if SOAK else 100
STEPS = 20 if SOAK else 5
LETTERS = string.ascii_letters + string.digits
WEBHOOK_SECRET = "webhook-secret-0123456789"  # of the forge


@dataclass(frozen=True, slots=True)
class Planted:
    """Args: `declared` are secrets of steps, by name, of which `stored` stand in files of the state folder;
    `environment` stand there and nowhere else; `shaped` give themselves away.
    """

    declared: dict[str, str]
    environment: list[str]
    shaped: list[str]
    stored: frozenset[str] = field(default=frozenset())

    def all(self) -> Iterator[tuple[str, str, list[bytes]]]:
        """(what it is, the secret, the texts that must be found nowhere)."""
        for value in [*self.declared.values(), WEBHOOK_SECRET]:
            yield "declared", value, forms(value)
        for value in self.environment:
            yield "environment", value, forms(value)
        for value in self.shaped:
            yield "shaped", value, [value.encode()]

    def some(self) -> list[str]:
        """One of each shape and each place, the webhook's own too."""
        names = sorted(self.stored)[:1] + [name for name in self.declared if name not in self.stored][:24]
        return [
            *(self.declared[name] for name in names),
            *self.environment[:11],
            *self.shaped,
            WEBHOOK_SECRET,
        ]

    def variables(self) -> dict[str, str]:
        """The environment of whoever works on the project."""
        return {
            **{secret_variable(n): value for n, value in self.declared.items() if n not in self.stored},
            **{f"SERVICE{number}_API_KEY": value for number, value in enumerate(self.environment)},
            "OPENAI_API_KEY": self.environment[0],
            secret_variable("SHOP"): WEBHOOK_SECRET,
        }

    def find(self, surfaces: Iterable[tuple[str, bytes]]) -> list[str]:
        """Which of them is found where, a line each."""
        wanted = [(what, value, form) for what, value, texts in self.all() for form in texts]
        return sorted(
            {
                f"{where}: {what} {value[:8]!r}"
                for where, data in surfaces
                for what, value, form in wanted
                if form in data
            }
        )


def plant(chance: random.Random) -> Planted:
    """As many as are asked for."""

    def text(length: int, letters: str = LETTERS) -> str:
        return "".join(chance.choice(letters) for _ in range(length))

    declared = [
        lambda: text(8),
        lambda: text(40),
        lambda: text(64, "0123456789abcdef"),
        lambda: base64.b64encode(chance.randbytes(33)).decode(),
        lambda: f'{text(5)} "{text(5)}" \\{text(5)}',
        lambda: f"{text(6)}/{text(6)}+{text(6)}=&?#%",
        lambda: f"{text(6)}'{text(6)}<{text(4)}>&{text(4)}",
        lambda: f"pä$$wörd-{text(10)}-\N{LOCK}",
        lambda: f"line one {text(12)}\nline two {text(12)}\n",
        lambda: f"postgresql://maestro:{text(16)}@db.example.org/x",
        lambda: json.dumps({"user": text(6), "key": text(24)}),
    ]
    shaped = [
        lambda: f"ghp_{text(36)}",
        lambda: f"glpat-{text(20)}",
        lambda: f"AKIA{text(16, string.ascii_uppercase + string.digits)}",
        lambda: f"xoxb-{text(12, string.digits)}-{text(24)}",
        lambda: f"sk-{text(48)}",
        lambda: f"eyJ{text(20)}.eyJ{text(40)}.{text(43)}",
        lambda: f"npm_{text(36)}",
        lambda: f"https://deploy:{text(20)}@example.org/repository.git",
    ]
    kinds = {"declared": declared, "shaped": shaped}
    found: dict[str, list[str]] = {"declared": [], "environment": [], "shaped": []}
    for number in range(COUNT):
        what = ("declared", "declared", "environment", "shaped")[number % 4]
        makers = kinds.get(what, declared)
        found[what].append(makers[number // 4 % len(makers)]())
    names = {f"s{number}": value for number, value in enumerate(found["declared"])}
    # What is in a file comes back without the space around it.
    stored = frozenset(name for name in list(names)[::5] if names[name] == names[name].strip())
    return Planted(names, found["environment"], found["shaped"], stored)


def write_project(root: Path, planted: Planted, url: str) -> Project:
    """A project whose flows say all of them: `leak` when it is asked to, `leak-event` for a pull request.

    Steps send them to `url`, which also stands for a server of models. What those cost nobody knows, so that
    only a flow without a budget may ask them.
    """
    init_project(root)
    settings = root / "pyproject.toml"
    settings.write_text(
        settings.read_text().replace(
            "[tool.maestro]\n",
            f'[tool.maestro]\nnetwork_allow_private = ["127.0.0.1"]\nmodel_base_url = "{url}"\n',
        )
    )
    for path in (root / "assets").glob("*.yaml"):
        path.unlink()
    tasks = _tasks(list(planted.declared), url)
    flow = {"version": "1.0.0", "tasks": tasks}
    for name, more in (("leak", {"budget": {"usd": "1.00"}}), ("leak-event", {"on": [{"event": "pr"}]})):
        (root / "assets" / f"{name}.json").write_text(json.dumps({"name": name, **flow, **more}))
    (root / "resources" / "budgets.yaml").unlink()
    project = find_project(root)
    folder = project.home / "secrets"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in planted.stored:
        (folder / name).write_text(planted.declared[name])
        (folder / name).chmod(0o600)
    return project


def _tasks(names: list[str], url: str) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = []
    for step in range(STEPS):
        config = {
            "names": names[step::STEPS],
            "url": url,
            "way": ("done", "error", "crash", "done", "done")[step % 5],
        }
        tasks.append(
            {
                "id": f"leak{step}",
                "uses": "pkg:test/leak@1.0.0",
                "secrets": config["names"],
                "egress": ["127.0.0.1"],
                "isolation": "none",
                "needs": [],
                "with": config,
            }
        )
    tasks.append({"id": "later", "uses": "pkg:test/leak@1.0.0", "needs": ["leak0"], "with": {"way": "done"}})
    return tasks


def install_kind(folder: Path) -> dict[str, str]:
    """The environment in which each process finds the kind, as an installed package's."""
    found = folder / "leaky-1.0.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky\nVersion: 1.0\n")
    (found / "entry_points.txt").write_text("[maestro.steps]\ntest/leak@1.0.0 = leaky_kind:Leak\n")
    known = [path for path in [os.environ.get("PYTHONPATH")] if path]
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).parent), *known])}


def places(project: Project) -> Iterator[tuple[str, bytes]]:
    """Everything that left: all files of the state but contents of artifacts, keys, and what flows, requests
    and forges say themselves (in the journal and the inbox).
    """
    home = project.home
    for path in home.rglob("*"):
        where = path.relative_to(home)
        if not path.is_file() or where.parts[0] in {"artifacts", "keys", "secrets", "cache", "inbox"}:
            continue
        if where.name.startswith(("journal.sqlite", "inbox.sqlite")):
            continue
        yield str(where), path.read_bytes()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as bundle:
                yield from ((f"{where}/{name}", bundle.read(name)) for name in bundle.namelist())
    yield "journal", _read_journal(home / "journal.sqlite")


def _read_journal(path: Path) -> bytes:
    """What the journal holds of results: everything but the flow and the request."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute(
            "SELECT s.facts, s.preview, s.error, s.reason, s.detail, s.claim, a.error FROM step s"
            " LEFT JOIN attempt a ON a.run_id = s.run_id AND a.step = s.step"
        ).fetchall()
        runs = connection.execute("SELECT error, cancel, decision, record FROM run").fetchall()
    finally:
        connection.close()
    return b"\n".join(
        value if isinstance(value, bytes) else str(value).encode() for row in [*rows, *runs] for value in row
    )
