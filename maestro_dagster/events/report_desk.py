"""Which rules a forge has, and where its interface is."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from maestro_dagster.errors import EventError
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


def find_api(name: str, forge: str, clone: str, api: str | None, allowed: Sequence[str] = ()) -> str:
    """The URL of a forge's interface: the one that was named, or that of the public server.

    http is for this machine and for `allowed` hosts, IPs and CIDRs only. Raises EventError (`report-api`).
    """
    host = urlsplit(clone).hostname or clone.partition("@")[2].partition(":")[0] if clone else ""
    url = (api or _PUBLIC.get((forge, host.lower()), "")).rstrip("/")
    if not url:
        raise _bad(name, "it is not named, and not known for this server")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise _bad(name, "it is no URL") from None
    if parts.username is not None or parts.query or parts.fragment or any(letter.isspace() for letter in url):
        raise _bad(name, "it holds a user, a query or a space")
    if not host or parts.scheme not in {"https", "http"}:
        raise _bad(name, "it is not an https URL with a host")
    if parts.scheme == "http" and not _is_near(host, allowed):
        raise _bad(name, "a token that is sent over http can be read on the way")
    return url


def _is_near(host: str, allowed: Sequence[str]) -> bool:
    if host == "localhost" or host in allowed:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or any(address in network for network in _networks(allowed))


def _networks(allowed: Sequence[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    found = []
    for text in allowed:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            continue  # a host's name
    return found


def _bad(name: str, why: str) -> EventError:
    return EventError(
        f"the `api` of a forge cannot be used: {why}",
        place=f"resources/forges.yaml, {name}",
        remedy="give the https URL of the forge's API; http only for this machine or network_allow_private",
        code="report-api",
    )
