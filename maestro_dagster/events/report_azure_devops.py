"""Azure DevOps: statuses of commits and pull requests, and a thread of the pull request.

learn.microsoft.com/rest/api/azure/devops/git: statuses, pull-request-statuses, pull-request-threads. Commit
statuses do not count for branch policies, those of the pull request do: both are set.
"""

from __future__ import annotations

import base64
from collections.abc import Generator, Mapping
from typing import Any
from urllib.parse import quote

from maestro_dagster.events.report_call import (
    Call,
    CommentNote,
    Destination,
    EvidenceNote,
    Known,
    Reply,
    StatusNote,
    Talk,
    read_id,
)

_STATES = {"requested": "pending", "running": "pending", "succeeded": "succeeded", "cancelled": "error"}
_VERSION = "api-version=7.1"
_CLOSED = 4  # a thread that is open can hold up the completion of a pull request
_PLAIN = 1  # comment type: text


class AzureDevOpsDesk:
    """`api` is `https://dev.azure.com/<organisation>`, a repository is `project/name`."""

    html = True

    def __init__(self, destination: Destination) -> None:
        project, _, name = destination.repository.partition("/")
        self._base = f"{destination.api}/{quote(project)}/_apis/git/repositories/{quote(name or project)}"

    def headers(self, token: str) -> Mapping[str, str]:
        # Without the last one a token that is refused is answered with a page to sign in, as a success.
        return {
            "authorization": f"Basic {base64.b64encode(f':{token}'.encode()).decode()}",
            "accept": "application/json",
            "x-tfs-fedauthredirect": "Suppress",
        }

    def set_status(self, note: StatusNote, known: Known) -> Talk:
        genre, _, name = note.context.partition("/")
        wanted = {
            "state": _STATES.get(note.standing, "failed"),
            "description": note.description,
            "targetUrl": note.url,
            "context": {"genre": genre, "name": name or genre},
        }
        places = [f"{self._base}/commits/{note.sha}/statuses"]
        if note.number is not None:
            places.append(f"{self._base}/pullRequests/{note.number}/statuses")
        for place in places:
            if note.unsure and (yield from _is_told(place, wanted)):
                continue
            yield Call("POST", f"{place}?{_VERSION}", wanted)
        return {}

    def set_comment(self, note: CommentNote, known: Known) -> Talk:
        marker = f"<!-- maestro {note.marker} -->"
        threads = f"{self._base}/pullRequests/{note.number}/threads"
        text = f"{note.text}\n\n{marker}"
        place = (known["thread"], known["comment"]) if "comment" in known else None
        if place is None:
            place = yield from _find_comment(threads, marker)
        if place is not None:
            url = f"{threads}/{place[0]}/comments/{place[1]}?{_VERSION}"
            reply = yield Call("PATCH", url, {"content": text}, also=(404,))
            if reply.ok:
                return {"thread": place[0], "comment": place[1]}
        comment = {"parentCommentId": 0, "content": text, "commentType": _PLAIN}
        reply = yield Call("POST", f"{threads}?{_VERSION}", {"comments": [comment], "status": _CLOSED})
        return {"thread": reply.id(), "comment": read_id(next(iter(reply.rows("comments")), {}))}

    def attach_evidence(self, note: EvidenceNote) -> Talk:
        """Its repositories have no releases."""
        yield from ()
        return {"release": None}


def _is_told(place: str, wanted: Mapping[str, Any]) -> Generator[Call, Reply, bool]:
    rows = (yield Call("GET", f"{place}?latestOnly=true&{_VERSION}")).rows("value")
    own = [row for row in rows if row.get("context") == wanted["context"]]
    newest = max(own, key=lambda row: int(row.get("id") or 0), default={})
    return all(newest.get(key) == value for key, value in wanted.items())


def _find_comment(threads: str, marker: str) -> Generator[Call, Reply, tuple[int | str, int | str] | None]:
    """All threads come in one answer. The first that has the mark is ours: nobody knew the mark before."""
    rows = (yield Call("GET", f"{threads}?{_VERSION}")).rows("value")
    for thread in sorted(rows, key=lambda row: int(row.get("id") or 0)):
        for comment in thread.get("comments") or ():
            if marker in str(comment.get("content")) and not comment.get("isDeleted"):
                return read_id(thread), read_id(comment)
    return None
