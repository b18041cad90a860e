"""Which of the known names somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection

_LONGEST = 80  # comparing longer names costs more than it tells
_MOST = 400  # names compared in full


def nearest(name: str, known: Collection[str], cutoff: float = 0.6) -> str | None:
    """The known name nearest to `name`, or None. Bounded, however many names there are."""
    if not name or len(name) > _LONGEST:
        return None
    candidates = known
    if len(known) > _MOST:
        slack = 2
        candidates = [each for each in known if each[:1] == name[:1] and abs(len(each) - len(name)) <= slack][
            :_MOST
        ]
    found = difflib.get_close_matches(name, candidates, n=1, cutoff=cutoff)
    if found:
        return found[0]
    folded = name.casefold()
    return next((each for each in candidates if each.casefold() == folded), None)


def did_you_mean(name: str, known: Collection[str], *, otherwise: str = "") -> str:
    """`Did you mean x?`, or the sentence for when nothing is near."""
    found = nearest(name, known)
    return f"Did you mean `{found}`?" if found else otherwise
