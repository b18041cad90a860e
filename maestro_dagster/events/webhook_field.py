"""The fields of a webhook's body: read without trust, and never with another error than EventError.

A path such as `pull_request.head.sha` walks through objects. Texts come back without control characters
and without halves of surrogate pairs, which JSON can hold and neither a database nor a log can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from maestro_dagster.errors import EventError
from maestro_dagster.events.interface import SHA, Kind

Payload = Mapping[str, Any]

MAX_EVENTS = 5000  # of one delivery; a push of more refs is no push
DETACHED = "refs/detached/head"  # a result for a commit of which the forge names no ref
OWN_REPORTS = "maestro/"  # how the names of our own statuses start
_MAX_REF = 1000  # characters
_MAX_PATHS = 6 * 1024  # bytes of changed paths; with more of them the repository itself is asked
_UNCLEAN = re.compile("[\x00-\x1f\x7f\ud800-\udfff]+")
_NO_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\\ud800-\udfff]|\.\.|@\{|//|/\.|\.lock(/|$)|[/.]$")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a delivery says of one ref, in our words; `webhook.py` makes a RepositoryEvent of it.

    `after` is empty where the forge does not tell the commit (a release), or not all of its name.
    """

    kind: Kind
    ref: str
    after: str
    before: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def parse_body(body: bytes, content_type: str) -> Payload:
    """The object in a body: JSON, or a form with the JSON in its field `payload`."""
    try:
        text = body.decode("utf-8-sig")
        if content_type.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
            text = parse_qs(text, strict_parsing=True, max_num_fields=100).get("payload", [""])[0]
        found = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError, MemoryError) as error:
        raise malformed(f"its body is no JSON ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise malformed("its body is no JSON object")
    return found


def value_at(payload: Any, path: str) -> Any:
    """The value at a path of keys; None where there is none."""
    for key in path.split("."):
        if not isinstance(payload, Mapping):
            return None
        payload = payload.get(key)
    return payload


def text_at(payload: Any, path: str, most: int = 300) -> str:
    """A text without control characters, cut to `most`; empty where there is none."""
    found = value_at(payload, path)
    return clean(found)[:most] if isinstance(found, str) else ""


def clean(text: str) -> str:
    return _UNCLEAN.sub(" ", text).strip()


def number_at(payload: Any, path: str) -> int:
    """A whole number above zero that each database holds. Raises EventError (`webhook-malformed`)."""
    found = value_at(payload, path)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 < found < 2**63:
        raise malformed(f"its `{path}` is no number")
    return found


def flag_at(payload: Any, path: str) -> bool:
    return value_at(payload, path) is True


def list_at(payload: Any, path: str) -> list[Any]:
    """A list of at most MAX_EVENTS items; empty where there is none."""
    found = value_at(payload, path)
    if found is None:
        return []
    if not isinstance(found, list) or len(found) > MAX_EVENTS:
        raise malformed(f"its `{path}` is no list of at most {MAX_EVENTS}")
    return found


def need_text(payload: Any, path: str) -> str:
    """Raises EventError (`webhook-malformed`) where there is no text."""
    found = text_at(payload, path)
    if not found:
        raise malformed(f"it lacks `{path}`")
    return found


def sha_at(payload: Any, path: str) -> str:
    """A whole object name. Raises EventError (`webhook-malformed`)."""
    found = value_at(payload, path)
    if not isinstance(found, str) or not SHA.fullmatch(found):
        raise malformed(f"its `{path}` is no object name")
    return found


def maybe_sha_at(payload: Any, path: str) -> str:
    """A whole object name; empty where there is none, or a shortened one."""
    found = value_at(payload, path)
    return found if isinstance(found, str) and SHA.fullmatch(found) else ""


def is_zero(sha: str) -> bool:
    return not sha.strip("0")


def ref_at(payload: Any, path: str, prefix: str = "") -> str:
    """The ref of a name, as git allows it. Raises EventError (`webhook-malformed`)."""
    found = value_at(payload, path)
    if not isinstance(found, str) or not found:
        raise malformed(f"it lacks `{path}`")
    return make_ref(found, prefix, path)


def make_ref(name: str, prefix: str, path: str) -> str:
    ref = prefix + name
    short = re.sub(r"^refs/(heads|tags)/", "", ref)
    if (
        not ref.startswith("refs/")
        or ref.count("/") < 2  # noqa: PLR2004 - refs/<what>/<name>
        or len(ref) > _MAX_REF
        or _NO_REF.search(ref)
        or short.startswith("-")
    ):
        raise malformed(f"its `{path}` is no ref")
    return ref


def branch_ref(payload: Any, path: str) -> str:
    """The branch at `path` as a ref; DETACHED where the forge names none."""
    name = value_at(payload, path)
    return make_ref(name, "refs/heads/", path) if isinstance(name, str) and name else DETACHED


def kind_of(ref: str, after: str) -> Kind:
    if is_zero(after):
        return "delete"
    return "tag" if ref.startswith("refs/tags/") else "push"


def changed_paths(commits: Any, whole: bool) -> list[str] | None:
    """The files that the listed commits touched, sorted; None where the list does not say all.

    Args:
        commits: objects with the lists `added`, `modified`, `removed`.
        whole: whether the forge listed every commit of the push.

    """
    if not whole or not isinstance(commits, list) or not commits:
        return None
    paths: set[str] = set()
    for commit in commits:
        for part in ("added", "modified", "removed"):
            listed = value_at(commit, part)
            if not isinstance(listed, list) or not all(isinstance(path, str) for path in listed):
                return None
            paths.update(listed)
    if any(_UNCLEAN.search(path) for path in paths) or sum(len(p.encode()) + 8 for p in paths) > _MAX_PATHS:
        return None
    return sorted(paths)


def label_names(labels: Any, key: str) -> list[str]:
    """The names of labels, each an object with its name under `key`."""
    found = labels if isinstance(labels, list) else []
    return [name for label in found[:50] if (name := text_at(label, key, 50))]


def first_line(payload: Any, path: str) -> str:
    found = value_at(payload, path)
    return clean(found.strip().partition("\n")[0])[:300] if isinstance(found, str) else ""


def keep_told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the forge did not tell; `changed_paths` stays as None: unknown."""
    return {
        key: value
        for key, value in facts.items()
        if key == "changed_paths" or (value is not None and value != "")
    }


def malformed(fact: str) -> EventError:
    return EventError(
        f"the delivery is malformed: {fact}",
        place="webhook",
        remedy="set the webhook's content type to JSON, and `forge` in resources/forges.yaml to its forge",
        code="webhook-malformed",
    )


def unsupported(event: str, known: Sequence[str]) -> EventError:
    return EventError(
        f"deliveries of the kind {event[:100]!r} start nothing",
        place="webhook",
        remedy=f"take the kind out of the webhook's events; known are {', '.join(known)}",
        code="webhook-unsupported",
    )


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)
