"""Who works on a run, and whether they still live.

An exclusive lease is a promise to go on with the run: it runs out when it is not renewed. A shared one
says that steps are running: it holds for as long as the process lives, however slow it is, because
taking over from a living process would run a step twice.

A run that a process took on has a mark beside its leases until that process has finished with it. One may die
after the journal closed the run and before Dagster knows of its end: somebody must look once more then.
"""

from __future__ import annotations

import time

from maestro_dagster.database.interface import Connection
from maestro_dagster.engine.process import ProcessMark

BEGUN = "begun"  # the owner of a mark: a lease that never lives, and that no end of the run removes


def is_live(process: str, expires: float, *, exclusive: bool) -> bool:
    """`expires` is seconds since the epoch. Of a process on another machine only the date is known."""
    mark = ProcessMark.parse(process)
    alive = mark.is_alive() if mark else None
    if alive is False:
        return False
    return expires > time.time() or (alive is True and not exclusive)


def take_lease(
    connection: Connection,
    run_id: str,
    owner: str,
    process: str,
    seconds: float,
    *,
    exclusive: bool,
    begin: bool = False,
) -> bool:
    """False when another owner holds the run: an exclusive lease suffers no other of another process.

    `begin` leaves the mark beside it.
    """
    others = connection.execute(
        "SELECT process, exclusive, expires FROM lease WHERE run_id = ? AND owner <> ?", (run_id, owner)
    ).fetchall()
    for other, alone, expires in others:
        mine = other == process and not alone
        if exclusive and not mine and is_live(other, expires, exclusive=bool(alone)):
            return False
    connection.execute(
        "INSERT INTO lease VALUES (?, ?, ?, ?, ?) ON CONFLICT (run_id, owner) DO UPDATE SET"
        " process = excluded.process, exclusive = excluded.exclusive, expires = excluded.expires",
        (run_id, owner, process, int(exclusive), time.time() + seconds),
    )
    if begin:
        connection.execute(
            "INSERT INTO lease VALUES (?, ?, '', 1, 0) ON CONFLICT DO NOTHING", (run_id, BEGUN)
        )
    return True


def renew_lease(connection: Connection, run_id: str, owner: str, seconds: float) -> bool:
    """False when the lease is gone: somebody closed the run, or took it over."""
    cursor = connection.execute(
        "UPDATE lease SET expires = ? WHERE run_id = ? AND owner = ?", (time.time() + seconds, run_id, owner)
    )
    return cursor.rowcount == 1


def release_lease(connection: Connection, run_id: str, owner: str, *, done: bool = False) -> None:
    """`done` takes the mark away too."""
    owners = (owner, BEGUN if done else owner)
    connection.execute("DELETE FROM lease WHERE run_id = ? AND owner IN (?, ?)", (run_id, *owners))


def owner_lives(connection: Connection, run_id: str, owner: str) -> bool:
    """Whether the one who began a step's last attempt can still end it."""
    mark = ProcessMark.parse(owner)
    alive = mark.is_alive() if mark else None
    if alive is not None:
        return alive
    row = connection.execute(
        "SELECT max(expires) FROM lease WHERE run_id = ? AND owner = ?", (run_id, owner)
    ).fetchone()
    return row[0] is not None and float(row[0]) > time.time()
