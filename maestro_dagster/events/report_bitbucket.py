"""Bitbucket Cloud and Bitbucket Data Center: build statuses, comments of pull requests, downloads (Cloud).

developer.atlassian.com: cloud/bitbucket/rest, server/rest. Their Markdown shows HTML as text, so the mark
of a comment is a link definition, which shows nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Generator, Mapping
from typing import Any
from urllib.parse import quote

from maestro_dagster.events.report_call import (
    MOST_PAGES,
    PAGE,
    Call,
    CommentNote,
    Destination,
    EvidenceNote,
    Known,
    Reply,
    StatusNote,
    Talk,
    Upload,
    malformed,
    read_id,
    same_host,
)

_CLOUD_STATES = {
    "requested": "INPROGRESS", "running": "INPROGRESS", "succeeded": "SUCCESSFUL", "cancelled": "STOPPED",
}  # fmt: skip
_SERVER_STATES = {**_CLOUD_STATES, "cancelled": "CANCELLED"}
_LONGEST_KEY = 40  # of a build status in the cloud


class BitbucketDesk:
    """Bitbucket Cloud."""

    html = False

    def __init__(self, destination: Destination) -> None:
        self._api = destination.api
        self._base = f"{destination.api}/repositories/{quote(destination.repository)}"
        self._web = destination.web or f"https://bitbucket.org/{quote(destination.repository)}"

    def headers(self, token: str) -> Mapping[str, str]:
        """An access token, or `user:password` of an app password or API token."""
        if ":" in token:
            return {"authorization": f"Basic {base64.b64encode(token.encode()).decode()}"}
        return {"authorization": f"Bearer {token}"}

    def set_status(self, note: StatusNote, known: Known) -> Talk:
        # The key makes it idempotent: what has the same key is replaced.
        body = {
            "key": _key(note.context),
            "state": _CLOUD_STATES.get(note.standing, "FAILED"),
            "name": note.context,
            "description": note.description,
            "url": note.url or f"{self._web}/commits/{note.sha}",
        }
        if note.ref.startswith("refs/heads/"):
            body["refname"] = note.ref.removeprefix("refs/heads/")
        yield Call("POST", f"{self._base}/commit/{note.sha}/statuses/build", body)
        return {}

    def set_comment(self, note: CommentNote, known: Known) -> Talk:
        marker = _hidden(note.marker)
        comments = f"{self._base}/pullrequests/{note.number}/comments"
        body = {"content": {"raw": f"{note.text}\n\n{marker}"}}
        found = known.get("comment")
        if found is None:
            found = yield from self._find_comment(comments, note.marker)
        if found is not None:
            reply = yield Call("PUT", f"{comments}/{found}", body, also=(404, 410))
            if reply.ok:
                return {"comment": found}
        reply = yield Call("POST", comments, body)
        return {"comment": reply.id()}

    def _find_comment(self, comments: str, marker: str) -> Generator[Call, Reply, int | str | None]:
        url = f"{comments}?pagelen={PAGE}&sort=created_on"
        for _ in range(MOST_PAGES):
            reply = yield Call("GET", url)
            for row in reply.rows("values"):
                content = row.get("content")
                told = content.get("raw") if isinstance(content, dict) else ""
                if marker in str(told) and not row.get("deleted"):
                    return read_id(row)
            following = reply.table().get("next")
            if not isinstance(following, str):
                break
            url = same_host(following, self._api)
        return None

    def attach_evidence(self, note: EvidenceNote) -> Talk:
        """It knows no releases: the bundle goes to the downloads. A file of the same name is replaced."""
        upload = Upload(note.name, note.read, form="files")
        yield Call("POST", f"{self._base}/downloads", upload=upload)
        return {"download": note.name}


class BitbucketServerDesk:
    """Bitbucket Data Center 8 and newer; `api` ends with `/rest`, a repository is `PROJECT/name`."""

    html = False

    def __init__(self, destination: Destination) -> None:
        project, _, name = destination.repository.partition("/")
        self._base = f"{destination.api}/api/latest/projects/{quote(project)}/repos/{quote(name)}"
        web = destination.api.removesuffix("/rest")
        self._web = destination.web or f"{web}/projects/{quote(project)}/repos/{quote(name)}"

    def headers(self, token: str) -> Mapping[str, str]:
        # Without the second one a body that is no JSON is refused as a forged request.
        return {"authorization": f"Bearer {token}", "x-atlassian-token": "no-check"}

    def set_status(self, note: StatusNote, known: Known) -> Talk:
        body = {
            "key": note.context,
            "state": _SERVER_STATES.get(note.standing, "FAILED"),
            "name": note.context,
            "description": note.description,
            "url": note.url or f"{self._web}/commits/{note.sha}",
        }
        if note.ref.startswith("refs/heads/"):
            body["ref"] = note.ref
        yield Call("POST", f"{self._base}/commits/{note.sha}/builds", body)
        return {}

    def set_comment(self, note: CommentNote, known: Known) -> Talk:
        comments = f"{self._base}/pull-requests/{note.number}/comments"
        text = f"{note.text}\n\n{_hidden(note.marker)}"
        found = known.get("comment")
        if found is None:
            found = yield from self._find_comment(note)
        if found is not None:
            reply = yield Call("GET", f"{comments}/{found}", also=(404,))
            if reply.ok:  # an update names the version that it replaces; 409 when somebody was faster
                body = {"text": text, "version": reply.table().get("version", 0)}
                yield Call("PUT", f"{comments}/{found}", body)
                return {"comment": found}
        reply = yield Call("POST", comments, {"text": text})
        return {"comment": reply.id()}

    def _find_comment(self, note: CommentNote) -> Generator[Call, Reply, int | str | None]:
        """All comments are told by the activities only."""
        url = f"{self._base}/pull-requests/{note.number}/activities?limit={PAGE}"
        start: Any = 0
        for _ in range(MOST_PAGES):
            reply = yield Call("GET", f"{url}&start={start}")
            for row in reply.rows("values"):
                comment = row.get("comment")
                if isinstance(comment, dict) and note.marker in str(comment.get("text")):
                    return read_id(comment)
            if reply.table().get("isLastPage", True):
                break
            start = reply.table().get("nextPageStart")
            if not isinstance(start, int):
                raise malformed("it names no next page")
        return None

    def attach_evidence(self, note: EvidenceNote) -> Talk:
        """It has no place for files of a release."""
        yield from ()
        return {"release": None}


def _key(context: str) -> str:
    if len(context) <= _LONGEST_KEY:
        return context
    return f"{context[: _LONGEST_KEY - 9]}-{hashlib.sha256(context.encode()).hexdigest()[:8]}"


def _hidden(marker: str) -> str:
    return f"[maestro]: # ({marker})"
