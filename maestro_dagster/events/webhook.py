"""A delivery of a forge: verified, then read into events. Nothing is parsed before it is verified.

An event's id comes from what nobody but the sender can choose. Most forges sign the body only, not the
header with the delivery's number: there the body's digest is the delivery, so that one that was caught
cannot be sent again under another number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from maestro_dagster.errors import EventError
from maestro_dagster.events import (
    webhook_azure,
    webhook_bitbucket,
    webhook_bitbucket_server,
    webhook_gitea,
    webhook_github,
    webhook_gitlab,
    webhook_standard,
)
from maestro_dagster.events.forge import ForgeRepository
from maestro_dagster.events.interface import RepositoryEvent, check_event
from maestro_dagster.events.webhook_field import (
    MAX_EVENTS,
    OWN_REPORTS,
    Payload,
    Reading,
    malformed,
    parse_body,
    text_at,
    unsupported,
)
from maestro_dagster.events.webhook_signature import verify_signature

MAX_BODY = 25 * 1024 * 1024  # bytes; no forge sends more
_ZEROS = "0" * 40
_READERS: Mapping[str, ModuleType] = {
    "github": webhook_github,
    "gitlab": webhook_gitlab,
    "bitbucket": webhook_bitbucket,
    "bitbucket-server": webhook_bitbucket_server,
    "gitea": webhook_gitea,
    "azure-devops": webhook_azure,
    "standard": webhook_standard,
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """A verified delivery.

    `delivery_id` is what the forge calls it (for people), `event` its kind in the forge's words,
    `repository` whom it names. No events: it needs none, such as a ping.
    """

    delivery_id: str
    event: str
    repository: str
    events: tuple[RepositoryEvent, ...]


def receive(
    forge: ForgeRepository, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: float
) -> Delivery:
    """Verify and read one delivery.

    Args:
        forge: the repository whose URL was called.
        secrets: the values of its secrets that are known, newest first.
        headers: of the request; names in any case.
        body: the bytes as they came.
        now: seconds since the epoch.

    Raises EventError `webhook-too-large`, `webhook-unsigned`, `webhook-signature`, `webhook-stale`,
    `webhook-secret-missing`, `webhook-malformed`, `webhook-other-repository`, `event-malformed`, and
    `webhook-unsupported` for a kind of event that is not known: taken, with nothing to do.

    """
    if len(body) > MAX_BODY:
        raise EventError(
            f"the delivery is larger than {MAX_BODY} bytes",
            place="webhook",
            remedy="send fewer refs in one push",
            code="webhook-too-large",
        )
    lower = {name.lower(): value for name, value in headers.items()}
    signed_id = verify_signature(forge.forge, secrets, lower, body, now)
    payload = parse_body(body, lower.get("content-type", ""))
    reader = _READERS[forge.forge]
    event, repository = reader.name_event(lower, payload), reader.name_repository(payload)
    _check_repository(forge, repository)
    readings: Sequence[Reading] | None = reader.read_events(event, payload)
    if readings is None:
        raise unsupported(event, _kinds(forge.forge))
    if len(readings) > MAX_EVENTS:
        raise malformed(f"it has more than {MAX_EVENTS} events")
    if readings and not repository and forge.forge not in {"azure-devops", "standard"}:
        raise malformed("it names no repository")
    identity = signed_id or _identify(forge.forge, lower, payload, body)
    told = next((text for name in reader.DELIVERY_HEADERS if (text := text_at(lower, name, 128))), "")
    delivery_id = told or f"sha256:{hashlib.sha256(body).hexdigest()[:32]}"
    events = tuple(
        _make_event(forge, event, reading, f"{identity}\0{index}", delivery_id, now)
        for index, reading in enumerate(readings)
        if not _is_own_report(reading)
    )
    for each in events:
        check_event(each)
    return Delivery(delivery_id, event, repository, events)


def _check_repository(forge: ForgeRepository, named: str) -> None:
    """One secret may be in use for several webhooks: each URL takes only what is its own."""
    mine, theirs = forge.repository.casefold(), named.casefold()
    if forge.forge == "azure-devops" and "/" not in mine:
        theirs = theirs.rpartition("/")[2]
    if theirs and mine != theirs:
        raise EventError(
            f"the delivery is of another repository, {named!r}",
            place="webhook",
            remedy="give each repository a webhook with the URL of its name in resources/forges.yaml",
            code="webhook-other-repository",
        )


def _identify(forge: str, headers: Mapping[str, str], payload: Payload, body: bytes) -> str:
    digest = hashlib.sha256(body).hexdigest()
    if forge == "gitlab":
        # Not signed at all: whoever has the token can send anything, so the number is as good as the body.
        # Where there is none (before 17.4), a push there and back may have equal bodies, but not equal UUIDs.
        return headers.get("idempotency-key") or f"{headers.get('x-gitlab-event-uuid', '')}\0{digest}"
    if forge == "azure-devops":
        return text_at(payload, "id") or digest
    return digest


def _make_event(
    forge: ForgeRepository, event: str, reading: Reading, identity: str, delivery_id: str, now: float
) -> RepositoryEvent:
    before = reading.before or "0" * len(reading.after or _ZEROS)
    digest = hashlib.sha256(f"{forge.name}\0{identity}".encode(errors="surrogatepass")).hexdigest()
    return RepositoryEvent(
        event_id=f"webhook-{digest[:40]}",
        repository=forge.clone,
        before=before,
        after=reading.after or "0" * len(before),
        ref=reading.ref,
        received_at=now,
        source="webhook",
        name=forge.name,
        kind=reading.kind,
        facts={"forge": forge.forge, "event": event, "delivery": delivery_id, **reading.facts},
    )


def _is_own_report(reading: Reading) -> bool:
    """What we told the forge comes back to us: a flow that runs for checks would never end."""
    return reading.kind == "check" and str(reading.facts.get("title", "")).startswith(OWN_REPORTS)


def _kinds(forge: str) -> Sequence[str]:
    return _KINDS[forge]


_KINDS: Mapping[str, Sequence[str]] = {
    "github": ("push", "pull_request", "release", "delete", "workflow_run", "check_suite", "status"),
    "gitlab": ("push", "tag_push", "merge_request", "release", "pipeline", "build"),
    "bitbucket": ("repo:push", "pullrequest:created", "repo:commit_status_updated"),
    "bitbucket-server": ("repo:refs_changed", "pr:opened", "pr:from_ref_updated", "pr:merged"),
    "gitea": ("push", "pull_request", "release", "delete", "workflow_run", "status"),
    "azure-devops": ("git.push", "git.pullrequest.created", "git.pullrequest.updated", "build.complete"),
    "standard": ("push", "tag", "pr", "release", "delete", "pipeline", "check"),
}
