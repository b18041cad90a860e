"""`resources/forges.yaml`: the repositories whose forges call us, and may be told what came of it.

The file may be missing: then nobody calls.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from maestro_dagster.errors import EventError, ManifestError
from maestro_dagster.events.mirror import is_this_machine
from maestro_dagster.manifest.plain_yaml import load_plain_yaml

FORGES = ("github", "gitlab", "bitbucket", "bitbucket-server", "gitea", "azure-devops", "standard")
_FIELDS = frozenset({"name", "forge", "repository", "clone", "secrets", "api", "token"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SSH = re.compile(r"[^/:\s]+:.+")  # user@host:path
_MOST_SECRETS = 2  # the new one and the one before: a third would be one that nobody takes away


@dataclass(frozen=True, slots=True)
class ForgeRepository:
    """A repository that a forge holds.

    Args:
        name: of the URL `/webhooks/<name>`, and in partitions.
        forge: one of FORGES.
        repository: as the forge names it: `owner/name`, with all groups for GitLab.
        clone: URL or whole path that git fetches from, without credentials.
        secrets: names of the secrets of which the webhook has one, newest first; one or two.
        api: where results are told; None: the forge's public address, if it has one.
        token: name of the secret with the forge's token, for the host of `api`; None: nothing is told.

    """

    name: str
    forge: str
    repository: str
    clone: str
    secrets: tuple[str, ...]
    api: str | None = None
    token: str | None = None


def read_forges(path: Path) -> tuple[ForgeRepository, ...]:
    """The repositories in the file's order. Raises EventError (`forges-invalid`)."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _invalid(f"the forges cannot be read: {error.strerror}", str(path)) from error
    try:
        document = load_plain_yaml(data)
    except (ValueError, ManifestError) as error:
        raise _invalid(f"the forges do not parse: {error}", str(path)) from None
    return parse_forges(document, str(path))


def parse_forges(document: Any, place: str = "forges") -> tuple[ForgeRepository, ...]:
    """The repositories of a document that has been read already. Raises EventError (`forges-invalid`)."""
    rows = document.get("repositories") if isinstance(document, Mapping) else None
    if not isinstance(rows, list):
        raise _invalid("`repositories` is a list of repositories", place)
    if unknown := document.keys() - {"repositories"}:
        raise _invalid(f"unknown key {min(map(str, unknown))!r}", place)
    found = tuple(_read_row(row, f"{place}: repositories[{index}]") for index, row in enumerate(rows))
    names = [repository.name for repository in found]
    if again := next((name for index, name in enumerate(names) if name in names[:index]), None):
        raise _invalid(f"two repositories are called {again!r}", place)
    return found


def find_forge(repositories: tuple[ForgeRepository, ...], name: str) -> ForgeRepository:
    """The repository of a URL. Raises EventError (`webhook-unknown`)."""
    for repository in repositories:
        if repository.name == name:
            return repository
    raise EventError(
        "no repository of that name is known",
        place="webhook",
        remedy="add it to resources/forges.yaml, or correct the webhook's URL",
        code="webhook-unknown",
    )


def _read_row(row: Any, place: str) -> ForgeRepository:
    if not isinstance(row, Mapping):
        raise _invalid("a repository has name, forge, repository, clone and secrets", place)
    if unknown := row.keys() - _FIELDS:
        raise _invalid(
            f"unknown key {min(map(str, unknown))!r}; there are {', '.join(sorted(_FIELDS))}", place
        )
    name, forge = _read_text(row, "name", place), _read_text(row, "forge", place)
    if not _NAME.fullmatch(name):
        raise _invalid("`name` is letters, digits, `.`, `_` and `-`, at most 64", place)
    if forge not in FORGES:
        raise _invalid(f"`forge` is one of {', '.join(FORGES)}", place)
    return ForgeRepository(
        name=name,
        forge=forge,
        repository=_read_repository(_read_text(row, "repository", place), forge, place),
        clone=_read_clone(_read_text(row, "clone", place), place),
        secrets=_read_secrets(row.get("secrets"), place),
        api=_read_api(_read_text(row, "api", place), place) if row.get("api") is not None else None,
        token=_read_name(row["token"], "token", place) if row.get("token") is not None else None,
    )


def _read_text(row: Mapping[str, Any], key: str, place: str) -> str:
    found = row.get(key)
    if (
        not isinstance(found, str)
        or not found
        or re.search(r"[\x00-\x1f\x7f]", found)
        or found != found.strip()
    ):
        raise _invalid(f"`{key}` is a text of one line", place)
    return found


def _read_repository(repository: str, forge: str, place: str) -> str:
    if forge != "azure-devops" and not re.fullmatch(r"[^/]+(/[^/]+)+", repository):
        raise _invalid("`repository` is what the forge calls it, `owner/name`", place)
    return repository


def _read_clone(clone: str, place: str) -> str:
    """No credentials: what stands here is shown. `ext::` and its like would run a command."""
    if clone.startswith("-") or "::" in clone.partition("/")[0]:
        raise _invalid("`clone` is a path or a URL of https, ssh, git or file", place)
    if "://" in clone:
        parts = _split(clone, "clone", place)
        if parts.scheme not in {"https", "http", "ssh", "git", "file"}:
            raise _invalid("`clone` is a path or a URL of https, ssh, git or file", place)
        if parts.scheme == "http" and not is_this_machine(parts.hostname):
            raise _invalid("`clone` is a URL of https: over http anybody between can change what runs", place)
        # ssh needs the user's name; in a URL of https even a name may be a token.
        if parts.password is not None or (parts.username and parts.scheme != "ssh"):
            raise _invalid("`clone` has credentials in it, which everybody would see", place)
    elif not clone.startswith("/") and not _SSH.fullmatch(clone):
        raise _invalid("`clone` is a whole path, not one from some folder, or a URL", place)
    return clone


def _read_api(api: str, place: str) -> str:
    parts = _split(api, "api", place)
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.query or parts.fragment:
        raise _invalid("`api` is a URL of https", place)
    if parts.username or parts.password:
        raise _invalid("`api` has credentials in it, which everybody would see", place)
    if parts.scheme == "http" and not is_this_machine(parts.hostname):
        raise _invalid("`api` is a URL of https: the token is sent to it", place)
    return api.rstrip("/")


def _split(url: str, key: str, place: str) -> Any:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for what is none
    except ValueError:
        raise _invalid(f"`{key}` is no URL", place) from None
    return parts


def _read_secrets(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_SECRETS:
        raise _invalid("`secrets` lists the names of one or two secrets, newest first", place)
    names = tuple(_read_name(name, "secrets", place) for name in value)
    if len(set(names)) != len(names):
        raise _invalid("`secrets` names the same secret twice", place)
    return names


def _read_name(value: Any, key: str, place: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        # The value is not shown: it may be the secret itself.
        raise _invalid(
            f"`{key}` holds names of secrets: letters, digits, `.`, `_` and `-`, at most 64", place
        )
    return value


def _invalid(fact: str, place: str) -> EventError:
    return EventError(
        fact, place=place, remedy="see the comments in resources/forges.yaml", code="forges-invalid"
    )
