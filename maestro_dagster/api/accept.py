"""Events of many deliveries go into the inbox with one wait for the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from maestro_dagster.errors import MaestroError

if TYPE_CHECKING:
    from maestro_dagster.events.interface import RepositoryEvent

    Waiting = tuple[Sequence[RepositoryEvent], asyncio.Future[tuple[bool, ...]]]

_BATCH = 200  # deliveries


class Acceptor:
    """`accept` is the inbox's: durable when it returns. While it writes, others gather for the next write."""

    def __init__(self, accept: Callable[[Sequence[RepositoryEvent]], Sequence[bool]]) -> None:
        self._accept = accept
        self._waiting: list[Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def accept(self, events: Sequence[RepositoryEvent]) -> tuple[bool, ...]:
        """Which of them were new. Raises what the inbox raises for these events."""
        if not events:
            return ()
        future: asyncio.Future[tuple[bool, ...]] = asyncio.get_running_loop().create_future()
        self._waiting.append((events, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write())
        return await asyncio.shield(future)

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            await self._write_batch(batch)

    async def _write_batch(self, batch: Sequence[Waiting]) -> None:
        try:
            found = await run_in_threadpool(self._accept, [event for events, _ in batch for event in events])
        except MaestroError as error:
            if len(batch) == 1:
                _fail(batch[0], error)
            else:  # one event that is refused must not cost the others theirs
                for one in batch:
                    await self._write_batch([one])
        except Exception as error:  # noqa: BLE001 - each waits for an answer
            for one in batch:
                _fail(one, error)
        else:
            rest = iter(found)
            for events, future in batch:
                new = tuple(next(rest) for _ in events)
                if not future.done():
                    future.set_result(new)


def _fail(waiting: Waiting, error: Exception) -> None:
    if not waiting[1].done():
        waiting[1].set_exception(error)
