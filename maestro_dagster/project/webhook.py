"""The webhooks of a project: which repository a URL is of, and its secrets, as they are now."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from maestro_dagster.errors import EventError, ProjectError
from maestro_dagster.events.forge import find_forge, read_forges
from maestro_dagster.project.secret import secret_source, secret_variable

if TYPE_CHECKING:
    from maestro_dagster.events.forge import ForgeRepository
    from maestro_dagster.events.webhook import Delivery
    from maestro_dagster.project.root import Project

_SHORTEST_SECRET = 16  # characters; a shorter one can be guessed
_UNVERIFIED = frozenset({"webhook-signature", "webhook-secret-missing"})
Receiver = Callable[[str, Mapping[str, str], bytes], "Delivery"]


def open_receiver(project: Project, learn: Callable[[Iterable[str]], None]) -> Receiver:
    """A function of the URL's name, the headers and the raw body, for many threads at once.

    `resources/forges.yaml` is read again when it has changed, the secrets each time: a new one counts from
    the next delivery on. Raises EventError (`webhook-unknown`, `forges-invalid`, `forges-missing`, those of
    `receive`, `webhook-secret-unreadable` where a secret that cannot be used may be the one that it needs).

    Args:
        project: whose repositories they are.
        learn: is given each secret before it is used, so that it can be hidden.

    """
    from maestro_dagster.events.webhook import receive

    forges, learned = ForgeFile(project), set[str]()

    def receive_delivery(name: str, headers: Mapping[str, str], body: bytes) -> Delivery:
        forge = find_forge(forges.read(), name)
        secrets, fault = find_secrets(project, forge)
        if fresh := set(secrets) - learned:
            learn(fresh)
            learned.update(fresh)
        try:
            return receive(forge, secrets, headers, body, time.time())
        except EventError as error:
            if fault is None or error.error_code not in _UNVERIFIED:
                raise
            raise _unreadable(fault) from error

    return receive_delivery


class ForgeFile:
    """`resources/forges.yaml`, parsed once for as long as it stays the same.

    A project may have none. One that was there and is not is missed: its repositories are still somebody's.
    """

    def __init__(self, project: Project) -> None:
        self._path = project.root / "resources" / "forges.yaml"
        self._was_there = self._stamp() is not None
        self._known: tuple[tuple[int, int, int] | None, tuple[ForgeRepository, ...]] | None = None

    def read(self) -> tuple[ForgeRepository, ...]:
        """Raises EventError (`forges-invalid`, `forges-missing`)."""
        stamp = self._stamp()
        if stamp is None and self._was_there and not os.path.lexists(self._path):
            raise EventError(
                "the file with the repositories is not there any more",
                place=str(self._path),
                remedy="put it back; with `repositories: []` in it no repository is known",
                code="forges-missing",
            )
        self._was_there = self._was_there or stamp is not None
        known = self._known
        if known is None or known[0] != stamp:
            known = self._known = (stamp, read_forges(self._path))
        return known[1]

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def find_secrets(project: Project, forge: ForgeRepository) -> tuple[tuple[str, ...], ProjectError | None]:
    """The secrets that can be used, newest first, and why another one cannot: others may read it, say."""
    find = secret_source(project.home)
    found, fault = [], None
    for name in forge.secrets:
        try:
            found.append(find(name))
        except ProjectError as error:
            fault = fault or error
    return tuple(secret for secret in found if secret), fault


def _unreadable(fault: ProjectError) -> EventError:
    """A refusal would be for good, and the delivery may be one that this secret signed."""
    return EventError(
        f"the delivery cannot be checked: {fault.fact}",
        place=fault.place,
        remedy=fault.remedy,
        code="webhook-secret-unreadable",
    )


@dataclass(frozen=True, slots=True)
class ForgeFault:
    """What is wrong with a repository of resources/forges.yaml."""

    status: Literal["warning", "error"]
    fact: str
    remedy: str


def check_secrets(project: Project, forge: ForgeRepository) -> ForgeFault | None:
    """Whether deliveries of the repository can be verified, and results told."""
    find = secret_source(project.home)
    named = [*forge.secrets, *([forge.token] if forge.token else [])]
    try:
        values = {name: find(name) for name in named}
    except ProjectError as error:
        return ForgeFault("error", f"{forge.name}: {error.fact} ({error.place})", error.remedy)
    missing = [name for name in named if values[name] is None]
    if missing:
        # With one of two secrets deliveries still come in.
        lost = missing[0] == forge.token or all(name in missing for name in forge.secrets)
        return ForgeFault(
            "error" if lost else "warning",
            f"{forge.name}: there is no secret {missing[0]}",
            f"set {secret_variable(missing[0])}, or write {project.home / 'secrets' / missing[0]} (mode 600)",
        )
    short = [name for name in forge.secrets if len(values[name] or "") < _SHORTEST_SECRET]
    if short:
        return ForgeFault(
            "warning",
            f"{forge.name}: the secret {short[0]} is shorter than {_SHORTEST_SECRET} characters",
            "make one with `openssl rand -hex 32`",
        )
    return None
