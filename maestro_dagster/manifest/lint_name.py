"""Names that a person may take for each other, and characters that hide what is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from maestro_dagster.manifest.dialect import Remark
from maestro_dagster.manifest.document import DocumentError
from maestro_dagster.manifest.model import Flow

# Ids are ASCII by their pattern, so only the lookalikes within ASCII remain (after Unicode TR 39).
_LOOKALIKES = str.maketrans({"I": "l", "1": "l", "i": "l", "0": "o", "_": "-"})
_PAIRS = (("rn", "m"), ("vv", "w"), ("cl", "d"))
_PARAM = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
# Marks that reorder or hide text: what a reviewer sees is not what a machine reads.
_HIDING = re.compile("[\u202a-\u202e\u2066-\u2069\u200b\u200e\u200f\u00ad\ufeff]")


@lru_cache(maxsize=20_000)
def skeleton(name: str) -> str:
    """Equal for names that look alike: `deploy-1` and `dep1oy-l` share one."""
    import unicodedata

    text = unicodedata.normalize("NFKC", name).translate(_LOOKALIKES).casefold()
    for pair, single in _PAIRS:
        text = text.replace(pair, single)
    return text


def check_names(flow: Flow) -> Iterator[Remark]:
    """Steps whose ids look alike (a warning), and parameters that no expression could name."""
    seen: dict[str, str] = {}
    for number, task in enumerate(flow.tasks):
        look = skeleton(task.id)
        other = seen.setdefault(look, task.id)
        if other != task.id:
            yield Remark(
                "confusable-name",
                f"the steps `{other}` and `{task.id}` are hard to tell apart",
                "Give one of them a name that looks different.",
                ("tasks", number, "id"),
                "warning",
            )
    for name in flow.params:
        if not _PARAM.fullmatch(name):
            yield Remark(
                "bad-value",
                f"no expression can name the parameter {name[:64]!a}",
                "Use letters, digits, `-` and `_` of ASCII, and start with a letter.",
                ("params", name),
                of_key=True,
            )


def find_hidden(text: str) -> DocumentError | None:
    """The first character of the text that hides or reorders others, as a fault with a place."""
    match = None if text.isascii() else _HIDING.search(text)
    if match is None:
        return None
    return DocumentError(
        "hidden-character",
        f"the character U+{ord(match.group()):04X} is invisible or changes the direction of the text",
        match.start(),
        "Remove it, or write it as an escape in double quotes so that it can be seen.",
    )
