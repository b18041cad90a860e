"""A push as the rest of the engine sees it, and the run id that belongs to it."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Any, Literal

Source = Literal["hook", "poll"]

SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # SHA-1 and SHA-256 repositories
EVENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{7,63}")


@dataclass(frozen=True, slots=True)
class PushEvent:
    """One ref that moved. `repository` is a path or URL, `name` what the operator calls it.

    `before` is all zeros for a new ref, `after` for a deleted one. `received_at` is seconds since the
    epoch.
    """

    event_id: str
    repository: str
    before: str
    after: str
    ref: str
    received_at: float
    source: Source = "hook"
    name: str = ""

    @property
    def branch(self) -> str:
        """The short name of the branch or tag."""
        return re.sub(r"^refs/(heads|tags)/", "", self.ref)

    @property
    def is_tag(self) -> bool:
        return self.ref.startswith("refs/tags/")

    @property
    def deleted(self) -> bool:
        return not self.after.strip("0")

    @property
    def created(self) -> bool:
        return not self.before.strip("0")

    @property
    def partition(self) -> str:
        """`<repository>@<ref>`: branches never overwrite each other's artifacts."""
        return f"{self.name or self.repository}@{self.ref}"

    def to_json(self) -> dict[str, Any]:
        return {
            "event_id": self.event_id,
            "repository": self.repository,
            "name": self.name,
            "before": self.before,
            "after": self.after,
            "ref": self.ref,
            "received_at": self.received_at,
            "source": self.source,
        }


def run_id_for(event_id: str, flow_name: str) -> str:
    """The one run id of a flow for an event: `r` and 25 characters of base32, safe in paths and URLs.

    Asking twice gives the same id, so a loop that crashed between asking and noting asks again in vain.
    """
    digest = hashlib.sha256(f"{event_id}\0{flow_name}".encode()).digest()
    return f"r{base64.b32encode(digest).decode().lower()[:25]}"
