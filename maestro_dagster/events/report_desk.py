"""Which rules a forge has, where its interface is, and so who gets its token."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from maestro_dagster.errors import EventError
from maestro_dagster.events.forge import ForgeRepository
from maestro_dagster.events.mirror import is_this_machine
from maestro_dagster.events.report_azure_devops import AzureDevOpsDesk
from maestro_dagster.events.report_bitbucket import BitbucketDesk, BitbucketServerDesk
from maestro_dagster.events.report_call import Desk, Destination
from maestro_dagster.events.report_github import GiteaDesk, GitHubDesk
from maestro_dagster.events.report_gitlab import GitLabDesk

_DESKS: dict[str, Callable[[Destination], Desk]] = {
    "github": GitHubDesk,
    "gitlab": GitLabDesk,
    "bitbucket": BitbucketDesk,
    "bitbucket-server": BitbucketServerDesk,
    "gitea": GiteaDesk,
    "azure-devops": AzureDevOpsDesk,
}
_HTTP, _HTTPS = 80, 443
# Only for repositories that are cloned from there: a token of another server is no business of theirs.
_PUBLIC = {
    ("github", "github.com"): "https://api.github.com",
    ("gitlab", "gitlab.com"): "https://gitlab.com/api/v4",
    ("bitbucket", "bitbucket.org"): "https://api.bitbucket.org/2.0",
}


def open_desk(destination: Destination) -> Desk:
    return _DESKS[destination.forge](destination)


def can_report(forge: str) -> bool:
    """Whether the forge has statuses that we know of; a sender of Standard Webhooks has none."""
    return forge in _DESKS


def find_api(name: str, forge: str, clone: str, api: str | None) -> str:
    """The URL of a forge's interface: the one that was named, or that of the public server.

    Raises EventError (`report-api`) where there is neither.
    """
    host = urlsplit(clone).hostname or clone.partition("@")[2].partition(":")[0]
    url = (api or _PUBLIC.get((forge, host.lower()), "")).rstrip("/")
    if not url:
        raise EventError(
            "it is not known where the forge is told of runs",
            place=f"resources/forges.yaml, {name}, api",
            remedy="give `api`, the https URL of the forge's API: docs/how-to/report-to-the-forge.md",
            code="report-api",
        )
    return url


def takes_token(forge: ForgeRepository) -> bool:
    """Whether git sends the token to the server of `clone`: it is that of `api`, and nobody listens."""
    clone = urlsplit(forge.clone)
    if clone.scheme != "https" and not (clone.scheme == "http" and is_this_machine(clone.hostname)):
        return False
    public = _PUBLIC.get((forge.forge, clone.hostname or "")) if _port(forge.clone) == _HTTPS else None
    api = forge.api or public
    if api is None:
        return False
    # The public forges have their interface beside the host of the repositories.
    return _origin(api) in {_origin(forge.clone), public and _origin(public)}


def _origin(url: str) -> tuple[str | None, int]:
    return urlsplit(url).hostname, _port(url)


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (_HTTPS if parts.scheme == "https" else _HTTP)
