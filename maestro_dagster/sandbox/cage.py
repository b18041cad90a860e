"""The cage: one foreign command in namespaces of its own, built by `unshare` of util-linux.

Works as root and as an ordinary user. Root does not stay root: the command runs as a user id that owns
nothing, because the kernel exempts the real root from process limits and lets it write to /proc/sys.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from maestro_dagster.errors import SandboxError
from maestro_dagster.sandbox.interface import CagedCommand, CagedResult
from maestro_dagster.sandbox.layout import Layout, make_plain_plan, make_plan
from maestro_dagster.sandbox.process import REMEDY, START_LIMIT, CagedProcess

FOREIGN_IDS = 2_000_000_000  # first of a million user ids that no account has


def open_cage(*, hidden: Sequence[Path] = ()) -> LinuxCage:
    """The cage of this machine. `hidden` are folders that no command may see whatever is bound."""
    return LinuxCage(tuple(str(path.resolve()) for path in hidden))


class LinuxCage:
    """Implements `Cage`. One object serves any number of commands at once."""

    def __init__(self, hidden: tuple[str, ...]) -> None:
        self._hidden = hidden
        self._refusal: str | None = None
        self._asked = False

    def refusal(self) -> str | None:
        if not self._asked:
            self._refusal = self._try() and self._try()  # a busy machine may have killed the first
            self._asked = True
        return self._refusal

    def _try(self) -> str | None:
        """Runs `true` in a cage, in a thread of its own: the caller may stand in an event loop."""
        from concurrent.futures import ThreadPoolExecutor

        if shutil.which("unshare") is None:
            return "there is no `unshare` (util-linux)"
        command = CagedCommand(argv=("true",), time_limit=START_LIMIT)
        try:
            with ThreadPoolExecutor(1) as pool:
                result = pool.submit(asyncio.run, self._run(command)).result()
        except SandboxError as error:
            return error.fact
        return None if result.returncode == 0 else f"a trial command ended with {result.returncode}"

    async def run(self, command: CagedCommand) -> CagedResult:
        if command.isolation not in {"namespaces", "none"}:
            raise SandboxError(f"there is no isolation {command.isolation!r}", code="sandbox-setup")
        if command.isolation == "namespaces" and self._asked and self._refusal:
            raise SandboxError(self._refusal, code="sandbox-unavailable", remedy=REMEDY)
        return await self._run(command)

    async def _run(self, command: CagedCommand) -> CagedResult:
        from maestro_dagster.sandbox.egress import open_proxy

        isolated = command.isolation == "namespaces"
        switch = isolated and _is_real_root()
        async with contextlib.AsyncExitStack() as stack:
            proxy = None
            if command.egress:
                proxy = await stack.enter_async_context(
                    open_proxy(command.egress, command.allow_private, unix=isolated)
                )
            if isolated:
                # Of this command alone: a worker that was forked goes without saying goodbye.
                outside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maestro-cage-")))
                (outside / "root").mkdir()
                plan = make_plan(
                    command,
                    Layout(root=str(outside / "root"), hidden=self._hidden),
                    switch_user=switch,
                    socket=proxy.socket if proxy else None,
                )
                owner = FOREIGN_IDS + secrets.randbelow(1_000_000)
                stack.enter_context(_lent(command.writable.values(), owner if switch else None))
            else:
                owner = 0
                scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maestro-plain-")))
                plan = make_plain_plan(command, scratch, proxy.url if proxy else "")
            process = CagedProcess(command, plan, owner if switch else None)
            result = await process.run()
        if proxy is None:
            return result
        return replace(
            result,
            network_in=proxy.bytes_in,
            network_out=proxy.bytes_out,
            refused_hosts=tuple(sorted(proxy.refused)),
        )


def _is_real_root() -> bool:
    """Whether we may map a foreign user id: root of the initial user namespace, or of one with a range."""
    if os.geteuid() != 0:
        return False
    spans = [line.split() for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()]
    return any(
        int(first) <= FOREIGN_IDS and int(first) + int(n) > FOREIGN_IDS + 1_000_000 for first, _, n in spans
    )


@contextlib.contextmanager
def _lent(folders: Iterable[Path], owner: int | None) -> Iterator[None]:
    """Gives the writable folders to the caged user for the time of the command, and takes them back."""
    if owner is None:
        yield
        return
    wanted = [str(folder) for folder in folders]
    for folder in wanted:
        _give(folder, owner)
    try:
        yield
    finally:
        for folder in wanted:
            _give(folder, os.geteuid())


def _give(folder: str, owner: int) -> None:
    """Never follows a link: what a command left behind must not redirect us."""
    os.chown(folder, owner, owner, follow_symlinks=False)
    if not Path(folder).is_dir():
        return
    for _, folders, files, handle in os.fwalk(folder, follow_symlinks=False):
        for name in (*folders, *files):
            os.chown(name, owner, owner, dir_fd=handle, follow_symlinks=False)
