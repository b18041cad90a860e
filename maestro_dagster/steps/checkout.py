"""What a checked-out tree says of its commit: `.maestro-checkout.json`, written by `git/checkout`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact, ArtifactStore, TreeEntry

CHECKOUT_FILE = ".maestro-checkout.json"
_MAX_COMMITS, _MAX_CHANGED = 500, 5000


@dataclass(frozen=True, slots=True)
class Commit:
    sha: str
    author: str
    date: str  # RFC 3339
    subject: str
    body: str


@dataclass(frozen=True, slots=True)
class Change:
    path: str
    status: str  # git's letter: A, M, D, R, ...


@dataclass(frozen=True, slots=True)
class Checkout:
    """A commit and how it differs from the one before. `files` is the whole tree, sorted by path."""

    repository: str
    commit: str
    ref: str
    commits: tuple[Commit, ...]
    changed: tuple[Change, ...]
    files: tuple[TreeEntry, ...] = ()


def find_checkout(
    store: ArtifactStore, inputs: Mapping[str, Artifact], git: Mapping[str, str]
) -> Checkout | None:
    """From the first input that is a checked-out tree, else from the push that caused the run, else None."""
    for artifact in inputs.values():
        if artifact.media_type != TREE_MEDIA_TYPE:
            continue
        checkout = read_checkout(store, artifact)
        if checkout is not None:
            return checkout
    if not git.get("sha"):
        return None
    subject, _, body = git.get("message", "").partition("\n")
    commit = Commit(git["sha"], git.get("author", ""), "", subject, body.strip())
    return Checkout(
        git.get("repository", ""), git["sha"], git.get("ref", ""), (commit,) if subject else (), ()
    )


def read_checkout(store: ArtifactStore, tree: Artifact) -> Checkout | None:
    """None for a tree that no checkout made, or whose note of it cannot be read."""
    files = store.read_tree(tree.digest)
    entry = next((file for file in files if file.path == CHECKOUT_FILE), None)
    if entry is None:
        return None
    try:
        value = json.loads(store.read(entry.digest))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, Mapping):
        return None
    commits = tuple(
        Commit(*(_text(item, name) for name in ("sha", "author", "date", "subject", "body")))
        for item in _rows(value, "commits")[:_MAX_COMMITS]
    )
    changed = tuple(
        Change(_text(item, "path"), _text(item, "status")) for item in _rows(value, "changed")[:_MAX_CHANGED]
    )
    others = tuple(file for file in files if file.path != CHECKOUT_FILE)
    return Checkout(
        _text(value, "repository"), _text(value, "commit"), _text(value, "ref"), commits, changed, others
    )


def _rows(value: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    rows = value.get(name)
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _text(value: Mapping[str, Any], name: str) -> str:
    text = value.get(name)
    return text if isinstance(text, str) else ""
