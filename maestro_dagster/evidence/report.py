"""report.html: what ran, who allowed it, what it cost, what it made, for a person without our tools.

A pure function of the other files and the receipt: verifying renders it again and compares, so that a
signer cannot show people something else than the data. The version in the receipt says which renderer;
when the output of one changes, it becomes a new version and the old one stays beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from maestro_dagster.evidence.report_v1 import render_v1

REPORT_VERSION: Final = "1"
_RENDERERS: Final = {"1": render_v1}


def render_report(
    description: Mapping[str, Any],
    flow: Mapping[str, Any],
    claims: Sequence[Mapping[str, Any]],
    *,
    decisions: Mapping[str, Any],
    costs: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]],
    key: str,
) -> bytes:
    """`description` is the receipt's predicate; `files` are the data files without report, index, receipt.

    Raises KeyError when no renderer of the version that the description names is known.
    """
    render = _RENDERERS[description["report"]]
    return render(description, flow, claims, decisions=decisions, costs=costs, files=files, key=key)
