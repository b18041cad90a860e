"""What is asked of a forge and what it answers, without any network: the forges' rules are generators.

A rule yields one `Call` after the other, is sent the `Reply` to each, and returns what it wants to know the
next time (an id that the forge gave, for example). Whoever drives it (`report_send`) does the talking, and
tells refusals from bad moments.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from maestro_dagster.errors import EventError

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Standing = Literal["requested", "running", "succeeded", "failed", "denied", "cancelled"]
PAGE = 100  # entries of a list that are asked for at once
NO_RELEASE = "report-no-release"
MOST_PAGES = 50  # of a list: whoever has more comments gets a new one


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that is sent: as the whole body, or as the field `form` of a form."""

    name: str
    read: Callable[[], bytes]
    form: str = ""
    media_type: str = "application/zip"


@dataclass(frozen=True, slots=True)
class Call:
    """`also`: answers beyond 2xx that the rule knows what to do with. `body` is sent as JSON."""

    method: Method
    url: str
    body: Any = None
    upload: Upload | None = None
    also: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """`data` is the answer's JSON, None where it has none."""

    status: int
    data: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300  # noqa: PLR2004 - RFC 9110, 15.3

    def table(self) -> Mapping[str, Any]:
        """The answer, which has to be an object. Raises EventError (`report-malformed`)."""
        if not isinstance(self.data, dict):
            raise malformed("it is no object")
        return self.data

    def rows(self, key: str = "") -> list[Mapping[str, Any]]:
        """The objects of a list, or of the list under `key`. Raises EventError (`report-malformed`)."""
        found = self.table().get(key) if key else self.data
        if not isinstance(found, list):
            raise malformed("it is no list")
        return [row for row in found if isinstance(row, dict)]

    def id(self) -> int | str:
        """The id of what was made. Raises EventError (`report-malformed`)."""
        return read_id(self.table())


Known = Mapping[str, Any]  # what a rule returned the last time; small JSON
Talk = Generator[Call, Reply, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class StatusNote:
    """How a run stands, for its commit. Times are seconds since the epoch.

    `description` is one line of at most 140 characters, `summary` Markdown. `unsure`: an earlier attempt
    may have arrived.
    """

    context: str
    sha: str
    ref: str
    standing: Standing
    description: str
    title: str
    summary: str
    run_id: str
    url: str | None = None
    number: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class CommentNote:
    """The one comment of a pull request. `marker` is a word that nobody else can know beforehand."""

    number: int
    marker: str
    text: str


@dataclass(frozen=True, slots=True)
class EvidenceNote:
    """An evidence bundle for the release of `tag`. `digest` is `sha256:<hex>` of what `read` gives."""

    tag: str
    run_id: str
    name: str
    digest: str
    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Destination:
    """A repository of a forge. `api` has no slash at its end; `repository` is as the forge names it."""

    name: str
    forge: str
    repository: str
    api: str
    web: str = ""  # URL of the repository's pages, where one is known


class Desk(Protocol):
    """The rules of one forge."""

    html: bool  # whether its Markdown shows HTML

    def headers(self, token: str) -> Mapping[str, str]: ...

    def set_status(self, note: StatusNote, known: Known) -> Talk: ...

    def set_comment(self, note: CommentNote, known: Known) -> Talk: ...

    def attach_evidence(self, note: EvidenceNote) -> Talk: ...


def read_id(row: Mapping[str, Any]) -> int | str:
    """Raises EventError (`report-malformed`)."""
    found = row.get("id")
    if isinstance(found, bool) or not isinstance(found, int | str) or found == "":
        raise malformed("it names no id")
    return found


def same_host(url: str, api: str, *more: str) -> str:
    """The URL, which a forge named for the next call: our token goes nowhere else.

    Raises EventError (`report-malformed`).
    """
    try:
        parts, own = urlsplit(url), urlsplit(api)
        near = parts.scheme == own.scheme and (parts.netloc == own.netloc or parts.netloc in more)
    except ValueError:
        near = False
    if not near or any(letter.isspace() for letter in url):
        raise malformed("it leads to another server")
    return url


def no_release() -> EventError:
    """Of the tag; a draft has none that the interface shows."""
    return EventError(
        "the forge has no release of the tag, or a draft only",
        remedy="publish one within a day, or `maestro report --retry` when it is there; else nothing",
        code=NO_RELEASE,
    )


def malformed(why: str) -> EventError:
    return EventError(
        f"the forge gave an answer that its interface does not have: {why}",
        remedy="see that `api` in resources/forges.yaml is the forge's API, and `forge` its kind",
        code="report-malformed",
    )
