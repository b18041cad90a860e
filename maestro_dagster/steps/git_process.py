"""Run git so that nothing but our own words configures it.

It runs outside the cage: it reads the repository with the operator's rights, and executes nothing of
what it reads. Configuration of the system and of the user is off, the hooks folder is empty, no filter is
defined that an attribute could call, helpers and prompts are off, and only plain transports are allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maestro_dagster.errors import StepError
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.span import open_call

OUTPUT_BYTES = 64 * 1024**2
# Attributes of the commit would rewrite contents; these win over all others (gitattributes(5)).
ATTRIBUTES = "* -text -eol -filter -ident -working-tree-encoding -export-subst -diff -merge\n"
CONFIG = """[safe]
	directory = *
[core]
	hooksPath = /dev/null
	attributesFile = /dev/null
	excludesFile = /dev/null
	fsmonitor = false
	symlinks = true
	autocrlf = false
	protectHFS = true
	protectNTFS = true
[protocol]
	allow = never
	version = 2
[protocol "https"]
	allow = always
[protocol "http"]
	allow = always
[protocol "file"]
	allow = always
[credential]
	helper =
[submodule]
	recurse = false
[fetch]
	recurseSubmodules = false
[gc]
	auto = 0
[maintenance]
	auto = false
[advice]
	detachedHead = false
[http]
	followRedirects = false
"""


@dataclass(frozen=True, slots=True)
class GitProcess:
    """git in one work folder, with a home of its own."""

    home: Path
    folder: Path
    place: str
    proxy: str = ""

    def prepare(self) -> None:
        self.home.mkdir(parents=True)
        (self.home / "config").write_text(CONFIG, encoding="utf-8")
        self.folder.mkdir(parents=True)

    def _environment(self) -> dict[str, str]:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(self.home / "config"),
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }
        if self.proxy:
            environment["https_proxy"] = environment["http_proxy"] = self.proxy
        for variable in ("GIT_SSL_CAINFO", "SSL_CERT_FILE"):
            if variable in os.environ:
                environment[variable] = os.environ[variable]
        return environment

    async def run(self, *arguments: str, time_limit: float = 300.0) -> bytes:
        """What git prints. Raises StepError (`git-failed`, `git-too-slow`)."""
        with open_call(f"git {arguments[0]}") as span:
            span.attributes[name.PROCESS_COMMAND] = "git"
            return await self._run(arguments, time_limit)

    async def _run(self, arguments: Sequence[str], time_limit: float) -> bytes:
        try:
            process = await asyncio.create_subprocess_exec(
                "git",
                *arguments,
                cwd=self.folder,
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise StepError(
                "there is no git on this machine", place=self.place, remedy="install git", code="git-missing"
            ) from error
        try:
            async with asyncio.timeout(time_limit):
                out, err = await asyncio.gather(_read(process.stdout), _read(process.stderr))
                await process.wait()
        except TimeoutError:
            raise StepError.transient(
                f"git {arguments[0]} took longer than {time_limit:.0f} s",
                place=self.place,
                code="git-too-slow",
            ) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if len(out) > OUTPUT_BYTES:
            raise StepError(f"git {arguments[0]} printed too much", place=self.place, code="git-too-large")
        if process.returncode != 0:
            said = err[-1000:].decode("utf-8", "replace").strip()
            raise StepError(f"git {arguments[0]} failed: {said}", place=self.place, code="git-failed")
        return out


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    """Everything up to a little over the limit; what comes after is dropped."""
    kept = bytearray()
    while stream is not None and (data := await stream.read(1 << 16)):
        if len(kept) <= OUTPUT_BYTES:
            kept += data
    return bytes(kept)
