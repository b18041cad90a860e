"""Whose records a PostgreSQL holds: those of one project, told by its name and by the keys it signs with.

A name alone would not do: every new project might have the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maestro_dagster.database.interface import PLAIN, SCHEMA, Wording

if TYPE_CHECKING:
    from psycopg2.extensions import connection as RawConnection  # noqa: N812 - its own name is lower case

_READ = f"SELECT project, ARRAY(SELECT hint FROM {SCHEMA}.owner_key) FROM {SCHEMA}.owner"  # noqa: S608 - a constant
# One transaction. Of two that come first at once, the row lets one after the other.
_NAME = f"INSERT INTO {SCHEMA}.owner (project) VALUES (%(project)s) ON CONFLICT DO NOTHING; {_READ}"  # noqa: S608
_ADOPT = f"""
SELECT FROM {SCHEMA}.owner FOR UPDATE;
INSERT INTO {SCHEMA}.owner_key SELECT unnest(%(keys)s)
  WHERE NOT EXISTS (SELECT FROM {SCHEMA}.owner_key)
  OR EXISTS (SELECT FROM {SCHEMA}.owner_key WHERE hint = ANY(%(keys)s)) ON CONFLICT DO NOTHING;
{_READ}
"""  # noqa: S608 - a constant


@dataclass(frozen=True, slots=True)
class Owner:
    """`keys` gives the hints of all keys that the project has had; asked when the database is opened."""

    project: str
    keys: Callable[[], Sequence[str]] = tuple


def require_owner(connection: RawConnection, owner: Owner, place: str, wording: Wording = PLAIN) -> None:
    """Raises (`foreign`) for another project; the first one that comes, and its keys, are remembered.

    A project goes on with a new key beside an old one. One without any key is told by its name: it cannot
    sign, so it runs nothing.
    """
    from maestro_dagster.database.pool import send

    rows = send(connection, _READ) or send(connection, _NAME, {"project": owner.project})
    project, known = rows[0]
    remedy = "give this project a database of its own (CREATE DATABASE)"
    if project != owner.project:
        raise wording.fault(
            "foreign",
            f"belongs to the project {project}, and this one is {owner.project}",
            place,
            f"{remedy}, or correct tenant and project_name; budgets may be shared by the setting"
            " `budget_database`",
        )
    keys = list(owner.keys())
    if not set(keys) <= set(known):
        _, known = send(connection, _ADOPT, {"project": owner.project, "keys": keys})[0]
    if keys and not set(keys) & set(known):
        raise wording.fault(
            "foreign",
            f"belongs to another project that is called {project} as well, which signs with other keys",
            place,
            f"{remedy}; if it is the same project, put the public half of a key that it had into `keys/` of"
            " the home, as a file `NAME.pub.pem`",
        )
