"""Stores of budgets for tests, and callers in processes of their own."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from maestro_dagster.costs.account import Account
from maestro_dagster.costs.counter import Counter
from maestro_dagster.costs.counter_postgres import PostgresCounter
from maestro_dagster.costs.counter_sqlite import SqliteCounter
from maestro_dagster.errors import CostError

TENANT = "t#month:2026-11"
ACTIONS = (("warn", 80), ("downgrade", 90), ("slow", 95), ("freeze", 100))


def account(key: str, hard: int | None, *, soft: int | None = None, tokens: int | None = None) -> Account:
    return Account(key, key, "2026-12-01", soft, hard, tokens, ACTIONS)


def open_counter(place: str) -> Counter:
    return PostgresCounter(place) if place.startswith("postgresql:") else SqliteCounter(Path(place))


def empty(url: str) -> None:
    import psycopg2

    PostgresCounter(url).check()  # makes the tables
    connection = psycopg2.connect(url)
    connection.autocommit = True
    connection.cursor().execute(
        "TRUNCATE maestro.budget_account, maestro.budget_entry, maestro.budget_ended, maestro.budget_frozen"
    )
    connection.close()


def spend(place: str, number: int, threads: int, each: int, limit: int, results: Any) -> None:
    """Reserves 8 and settles at 7, again and again, in many threads, until it is refused."""
    counter = open_counter(place)
    granted, refused, lock = 0, 0, threading.Lock()

    def call(thread: int) -> None:
        nonlocal granted, refused
        run = f"r{number}-{thread}"
        limits = [account(TENANT, limit), account("t/p#day:d", None), account(f"t/p/f/{run}#run", 8 * each)]
        for turn in range(each):
            try:
                counter.reserve(limits, 8, 0, f"{run}/{turn}", run_id=run)
            except CostError as error:
                if error.error_code != "budget-exhausted":
                    raise
                with lock:
                    refused += 1
                continue
            counter.settle(limits, f"{run}/{turn}", 7, 0, run_id=run)
            with lock:
                granted += 1

    callers = [threading.Thread(target=call, args=(thread,)) for thread in range(threads)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    counter.close()
    results.put((granted, refused))
