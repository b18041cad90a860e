"""Talks to the forges: sends what the outbox has due, one call at a time for each repository.

Redirections are not followed and addresses in answers only on the same host, because each call carries the
token. No error names it. A forge that asks to wait is left alone for so long, by all that waits for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maestro_dagster.errors import EventError, MaestroError
from maestro_dagster.events.outbox import Entry, Outbox
from maestro_dagster.events.report_answer import judge_answer, lost_answer, read_pause
from maestro_dagster.events.report_call import NO_RELEASE, Call, Desk, Destination, Reply, Talk, malformed
from maestro_dagster.events.report_desk import open_desk
from maestro_dagster.events.report_note import make_talk

if TYPE_CHECKING:
    import aiohttp

    from maestro_dagster.events.report_note import ReadEvidence

_BATCH = 20  # rows that are claimed at once
_LONGEST_ANSWER = 8 * 1024 * 1024
_MOST_CALLS = 200  # for one row
_WITH_CONTENT = (200, 201, 202)
# What an operator repairs, in the settings or at the forge, without a new run: it waits for that.
_REPAIRABLE = frozenset(
    {"report-unauthorised", "report-unknown", "report-malformed", "report-moved", "report-api", NO_RELEASE}
)
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. `claim`: so long after its death what a process had claimed is taken up by others; `quiet`:
    the longest that a bad moment with one row holds up the others of its repository.
    """

    call: float = 15.0
    whole: float = 120.0
    batch: float = 60.0  # no row is begun later than that after the first
    claim: float = 60.0
    quiet: float = 10.0
    first_wait: float = 5.0
    longest_wait: float = 1800.0
    refused: int = 6  # tries of what the forge refuses
    total: float = 3 * 86400.0  # of what could still arrive
    release: float = 86400.0  # for somebody to make a release of the tag


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of one row: `error` is None when the forge shows it."""

    target: str
    repository: str
    calls: int
    error: EventError | None = None
    gave_up: bool = False


class Sender:
    """`find_token` gives the token of a destination, asked each time so that a renewed one counts at once."""

    def __init__(
        self,
        outbox: Outbox,
        destinations: Mapping[str, Destination],
        find_token: Callable[[str], str | None],
        read_evidence: ReadEvidence,
        *,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._outbox, self._destinations, self._find_token = outbox, destinations, find_token
        self._read_evidence, self._clock = read_evidence, clock
        self._patience = patience or Patience()
        self._owner = secrets.token_hex(8)
        self._paused: dict[str, float] = {}

    async def send_due(self) -> list[Sent]:
        """One batch; what came of each row. Raises EventError where the outbox cannot be used."""
        claimed = self._outbox.claim(self._owner, _BATCH, self._clock(), self._patience.claim)
        if not claimed:
            return []
        import aiohttp

        groups: dict[str, list[Entry]] = {}
        for entry in claimed:
            groups.setdefault(entry.repository, []).append(entry)
        limit = aiohttp.ClientTimeout(total=self._patience.call)
        renewal = asyncio.create_task(self._renew())
        try:
            async with aiohttp.ClientSession(timeout=limit, cookie_jar=aiohttp.DummyCookieJar()) as session:
                found = await asyncio.gather(
                    *(self._send_group(session, name, entries) for name, entries in groups.items())
                )
        finally:
            renewal.cancel()
            self._outbox.release(self._owner)
        return [one for sent in found for one in sent]

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._patience.claim / 4)
            with suppress(EventError):  # the next time comes before the claims run out
                self._outbox.renew(self._owner, self._clock() + self._patience.claim)

    async def _send_group(
        self, session: aiohttp.ClientSession, name: str, entries: Sequence[Entry]
    ) -> list[Sent]:
        begin, sent = time.monotonic(), []
        for entry in entries:
            until = self._paused.get(name, 0.0)
            if until > self._clock():
                self._outbox.defer(self._owner, name, until)
                break
            if time.monotonic() - begin > self._patience.batch:
                break  # given back, and due
            sent.append(await self._send(session, entry))
        return sent

    async def _send(self, session: aiohttp.ClientSession, entry: Entry) -> Sent:
        line = _Line(session, entry.repository, self._paused, self._clock)
        try:
            desk, headers = self._open(entry)
            line.headers = headers
            talk = make_talk(desk, entry, self._read_evidence)
            async with asyncio.timeout(self._patience.whole):
                known = await line.hold(talk)
        except EventError as error:
            return self._fail(entry, error, line)
        except TimeoutError:
            return self._fail(entry, lost_answer("the forge took too long for all calls together"), line)
        except (MaestroError, OSError, ValueError, KeyError, TypeError) as error:
            code = error.error_code if isinstance(error, MaestroError) else "report-unmade"
            told = EventError(f"the report cannot be made: {error}", place=entry.target, code=code)
            told.retryable = isinstance(
                error, MaestroError
            )  # a store that is away, a secret with a wrong mode
            return self._fail(entry, told, line)
        self._outbox.settle(self._owner, entry, known, self._clock())
        return Sent(entry.target, entry.repository, line.calls)

    def _open(self, entry: Entry) -> tuple[Desk, Mapping[str, str]]:
        destination = self._destinations.get(entry.repository)
        if destination is None:
            raise EventError(
                "the repository is not one that is reported to",
                place=f"resources/forges.yaml, {entry.repository}",
                remedy="add it with its `token`; what waits for it is sent then",
                code="report-unknown",
            )
        token = self._find_token(entry.repository)
        if not token:
            raise EventError(
                "the token for reporting back is not there",
                place=f"resources/forges.yaml, {entry.repository}, token",
                remedy="store the secret that `token` names",
                code="report-unauthorised",
            )
        desk = open_desk(destination)
        return desk, desk.headers(token)

    def _fail(self, entry: Entry, error: EventError, line: _Line) -> Sent:
        now, patience = self._clock(), self._patience
        longest = min(patience.longest_wait, patience.first_wait * 2 ** min(entry.tries, 30))
        due_at = now + max(error.retry_after or 0.0, _random.uniform(longest / 2, longest))
        if error.retryable:
            self._paused[entry.repository] = min(due_at, now + max(error.retry_after or 0.0, patience.quiet))
        waits = error.retryable or error.error_code in _REPAIRABLE
        total = patience.release if error.error_code == NO_RELEASE else patience.total
        give_up = now - entry.changed_at > total or (not waits and entry.tries + 1 >= patience.refused)
        error.place = error.place or entry.target
        self._outbox.postpone(self._owner, entry, error, due_at=due_at, unsure=line.changed, give_up=give_up)
        return Sent(entry.target, entry.repository, line.calls, error, give_up)


class _Line:
    """The calls for one row. `changed`: something was sent that may have changed the forge."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        repository: str,
        paused: dict[str, float],
        clock: Callable[[], float],
    ) -> None:
        self._session, self._repository, self._paused, self._clock = session, repository, paused, clock
        self.headers: Mapping[str, str] = {}
        self.calls = 0
        self.changed = False

    async def hold(self, talk: Talk) -> dict[str, Any]:
        """What the rule returned in the end. Raises EventError (`report-...`)."""
        reply: Reply | None = None
        try:
            while True:
                call = next(talk) if reply is None else talk.send(reply)
                if self.calls >= _MOST_CALLS:
                    raise EventError("the forge asks for too many calls", code="report-malformed")
                reply = await self._ask(call)
        except StopIteration as stop:
            found: dict[str, Any] = stop.value or {}
            return found
        finally:
            talk.close()

    async def _ask(self, call: Call) -> Reply:
        import aiohttp
        from yarl import URL

        self.calls += 1
        self.changed = self.changed or call.method != "GET"
        body, headers = self._body(call)
        try:
            async with self._session.request(
                call.method, URL(call.url, encoded=True), data=body, headers=headers, allow_redirects=False
            ) as response:
                raw = await _read(response)
                told = {name.lower(): value for name, value in response.headers.items()}
                reply = Reply(response.status, _parse(raw, response.status), told)
        except aiohttp.InvalidURL:
            raise EventError("the address of the forge cannot be used", code="report-malformed") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise lost_answer(_name_failure(error)) from None
        if (pause := read_pause(reply, self._clock())) > 0:
            self._paused[self._repository] = self._clock() + pause
        if reply.status not in call.also or reply.status == 429:  # noqa: PLR2004 - RFC 6585, 4
            judge_answer(call, reply, self._clock(), self.headers.values())
        return reply

    def _body(self, call: Call) -> tuple[Any, dict[str, str]]:
        import aiohttp

        headers = {"user-agent": "maestro-dagster", **self.headers}
        if call.upload is not None:
            data = call.upload.read()
            if not call.upload.form:
                kind, size = call.upload.media_type, str(len(data))
                return _once(data), {**headers, "content-type": kind, "content-length": size}
            form = aiohttp.FormData()
            form.add_field(
                call.upload.form, data, filename=call.upload.name, content_type=call.upload.media_type
            )
            return form, headers
        if call.body is None:
            return None, headers
        form_json = json.dumps(call.body, ensure_ascii=False).encode()
        return form_json, {**headers, "content-type": "application/json"}


async def _once(data: bytes) -> AsyncIterator[bytes]:
    """A body that aiohttp cannot send a second time, as it does by itself when a PUT breaks off."""
    yield data


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for part in response.content.iter_chunked(64 * 1024):
        data += part
        if len(data) > _LONGEST_ANSWER:
            raise EventError("the forge's answer is too long", code="report-malformed")
    return bytes(data)


def _parse(raw: bytes, status: int) -> Any:
    try:
        return json.loads(raw) if raw.strip() else None
    except (ValueError, RecursionError):
        if status not in _WITH_CONTENT:
            return None
        raise malformed("it is no JSON") from None  # the page of a proxy, of a sign-in


def _name_failure(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the forge did not answer in time"
    number = getattr(getattr(error, "os_error", error), "errno", None)
    return f"the forge was not reached: {os.strerror(number) if number else type(error).__name__}"
