"""A step kind that says what it must not say, wherever a step can say something and in every spelling."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.errors import MaestroError, StepError
from maestro_dagster.llm.interface import ModelRequest
from maestro_dagster.sandbox.interface import CagedCommand
from maestro_dagster.steps.http_request import HttpRequestConfig, send
from maestro_dagster.steps.interface import StepConfig, StepContext, StepKind, StepResult


class LeakConfig(StepConfig):
    names: tuple[str, ...] = ()  # of declared secrets
    url: str = ""  # of a server that gets them in headers
    way: str = "done"  # done, error, crash


class Leak(StepKind[LeakConfig]):
    uses = "pkg:test/leak@1.0.0"
    summary = "Says secrets."
    config = LeakConfig

    async def run(
        self, context: StepContext, config: LeakConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        found = [context.secret(name) for name in config.names]
        if path := os.environ.get("LEAK_FILE"):
            found += read_plain(path) if config.names else []
        found += [context.store.read(artifact.digest).decode() for artifact in inputs.values()]
        for number, value in enumerate(found):
            for text in spell(value):
                context.log(f"value {number} is {text}.")
        say(found)
        if config.url and found:
            await self._send(context, config, found)
            await self._execute(context, found)
            await self._ask(context, found)
        if config.way == "error":
            raise StepError(f"it was {found[0]}", place=found[0], remedy=f"use {found[-1]}", code="leaked")
        if config.way == "crash":
            raise RuntimeError(*found)
        return StepResult(
            data="\n".join(found).encode(),
            media_type="text/plain",
            facts={"said": found, **{value[:200]: number for number, value in enumerate(found[:20])}},
            preview="\n".join(text for value in found for text in spell(value))[:4000],
            model={"provider": "test", "model": found[0]} if found else None,
            warnings=tuple(f"beware of {value}" for value in found),
        )

    async def _send(self, context: StepContext, config: LeakConfig, found: list[str]) -> None:
        for value in found[:5]:
            token = base64.b64encode(value.encode()).decode()
            request = HttpRequestConfig(url=f"{config.url}?key={quote(value, safe='')}", method="POST")
            await send(context, request, "POST", {"X-Api-Key": token}, value.encode())

    async def _execute(self, context: StepContext, found: list[str]) -> None:
        env = {"THE_TOKEN": base64.b64encode(found[0].encode()).decode()}
        script = "env; exit 3"
        done = await context.cage.run(
            CagedCommand(argv=("/bin/sh", "-c", script, found[0]), env=env, isolation="none")
        )
        context.log(done.stdout.decode(errors="replace"))

    async def _ask(self, context: StepContext, found: list[str]) -> None:
        """A model of that name: whoever counts calls and money counts them by it."""
        for value in found[:3]:
            messages = ({"role": "user", "content": value},)
            with contextlib.suppress(MaestroError):
                await context.models.generate(ModelRequest(messages=messages, model=value), context.ledger)


def say(found: list[str]) -> None:
    """As libraries do that know nothing of us, and the processes that they start."""
    for value in found:
        for text in spell(value):
            print(f"printed {text}.")  # noqa: T201 - what this is about
            sys.stderr.write(f"{text}\n")
        logging.getLogger("leaky").warning("logged %s", value)
        os.write(2, f"written {value}\n".encode())
    subprocess.run(["/bin/echo", "echoed", *found], check=True)
    os.write(1, found[0].encode() if found else b"")  # without an end of the line


def read_plain(path: str) -> list[str]:
    values: list[str] = json.loads(Path(path).read_text())
    return values


def spell(value: str) -> Iterator[str]:
    """As tools print it."""
    data = value.encode()
    yield value
    yield json.dumps(value)
    yield repr(value)
    yield repr(data)
    yield quote(value, safe="")
    yield quote_plus(value)
    yield html.escape(value)
    yield shlex.quote(value)
    yield base64.b64encode(data).decode()
    yield "Basic " + base64.b64encode(b"user:" + data + b":more").decode()
    yield base64.urlsafe_b64encode(b"u" + data).decode()
    yield data.hex()
    yield data.hex().upper()
    yield json.dumps({"outer": json.dumps({"inner": value})})
    yield f"https://user:{quote(value, safe='')}@example.org/path"


def forms(value: str) -> list[bytes]:
    """What must be found nowhere: the value, and what gives it away."""
    data = value.encode()
    found = {
        value,
        json.dumps(value)[1:-1],
        quote(value, safe=""),
        base64.b64encode(data).decode().rstrip("=")[:-1],
        data.hex(),
        data.hex().upper(),
    }
    return [each.encode() for each in found if len(each) >= 6]
