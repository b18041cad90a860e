"""SQL with `?` for SQLite, the same with `%s` for psycopg2."""

from __future__ import annotations

import re
from functools import lru_cache

_PART = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\?|%")


@lru_cache(maxsize=1024)
def convert_sql(sql: str) -> str:
    """A `?` within quotes stays; each `%` is doubled, as psycopg2 wants it."""
    return _PART.sub(_convert, sql)


def _convert(found: re.Match[str]) -> str:
    text = found.group()
    return "%s" if text == "?" else text.replace("%", "%%")
