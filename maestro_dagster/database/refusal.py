"""Why a PostgreSQL cannot be reached, in the operator's words. A connection that fails has no SQLSTATE."""

from __future__ import annotations

import re

_KNOWN = (
    (
        re.compile(r"authentication failed|no password supplied|pg_hba\.conf|role .* does not exist"),
        "does not let this role in",
        "correct role and password in the setting `database` (percent-encoded) or ~/.pgpass",
    ),
    (
        re.compile(r"database .* does not exist"),
        "is not there",
        "make it (CREATE DATABASE), or correct its name in the setting `database`",
    ),
    (
        re.compile(r"invalid (URI|dsn|connection option|integer value)|invalid \S+ value"),
        "is named by a URL that cannot be read",
        "correct the setting `database`; what may stand behind its `?` are the parameters of libpq",
    ),
)
_ELSE = "start it, or correct the setting `database`; what was acknowledged is kept"


def explain_refusal(text: str, why: str) -> tuple[str, str]:
    """What goes on after "the database", and the remedy. `text` is the driver's, `why` may be shown."""
    for pattern, what, remedy in _KNOWN:
        if pattern.search(text):
            return f"{what}: {why}", remedy
    return f"cannot be reached: {why}", _ELSE
