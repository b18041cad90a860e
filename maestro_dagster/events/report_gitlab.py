"""GitLab: commit statuses, notes of merge requests, links of releases to files of the package registry.

docs.gitlab.com/api: commits, notes, releases/links; user/packages/generic_packages.
"""

from __future__ import annotations

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
    no_release,
    read_id,
)

_STATES = {"requested": "pending", "running": "running", "succeeded": "success", "cancelled": "canceled"}
_PACKAGE = "maestro-evidence"


class GitLabDesk:
    html = True

    def __init__(self, destination: Destination) -> None:
        self._base = f"{destination.api}/projects/{quote(destination.repository, safe='')}"

    def headers(self, token: str) -> Mapping[str, str]:
        return {"private-token": token, "accept": "application/json"}

    def set_status(self, note: StatusNote, known: Known) -> Talk:
        state = _STATES.get(note.standing, "failed")
        body = {"state": state, "name": note.context, "description": note.description}
        if note.url:
            body["target_url"] = note.url
        if note.ref.startswith(("refs/heads/", "refs/tags/")):
            body["ref"] = note.ref.split("/", 2)[2]
        # A state that it has already is refused (400: cannot transition), and so is one of two at once (409).
        reply = yield Call("POST", f"{self._base}/statuses/{note.sha}", body, also=(400, 409))
        if not reply.ok:
            name = quote(note.context, safe="")
            url = f"{self._base}/repository/commits/{note.sha}/statuses?name={name}&per_page={PAGE}"
            rows = (yield Call("GET", url)).rows()
            newest = max(rows, key=lambda row: str(row.get("id", "")).zfill(20), default={})
            if newest.get("status") != state:
                yield Call("POST", f"{self._base}/statuses/{note.sha}", body)  # says why, if it refuses again
        return {}

    def set_comment(self, note: CommentNote, known: Known) -> Talk:
        marker = f"<!-- maestro {note.marker} -->"
        notes = f"{self._base}/merge_requests/{note.number}/notes"
        body = {"body": f"{marker}\n{note.text}"}
        found = known.get("comment")
        if found is None:
            found = yield from self._find_note(notes, marker)
        if found is not None:
            reply = yield Call("PUT", f"{notes}/{found}", body, also=(404,))
            if reply.ok:
                return {"comment": found}
        reply = yield Call("POST", notes, body)
        return {"comment": reply.id()}

    def _find_note(self, notes: str, marker: str) -> Generator[Call, Reply, int | str | None]:
        for page in range(1, MOST_PAGES + 1):
            url = f"{notes}?sort=asc&order_by=created_at&per_page={PAGE}&page={page}"
            rows = (yield Call("GET", url)).rows()
            for row in rows:
                if marker in str(row.get("body")) and not row.get("system"):
                    return read_id(row)
            if len(rows) < PAGE:
                break
        return None

    def attach_evidence(self, note: EvidenceNote) -> Talk:
        links = f"{self._base}/releases/{quote(note.tag, safe='')}/assets/links"
        reply = yield Call("GET", f"{links}?per_page={PAGE}", also=(404,))
        if not reply.ok:
            raise no_release()
        for row in reply.rows():
            if row.get("name") == note.name:
                return {"release": note.tag, "asset": read_id(row)}
        file = f"{self._base}/packages/generic/{_PACKAGE}/{quote(note.run_id)}/{quote(note.name)}"
        if not (yield from self._is_stored(note)):
            yield Call("PUT", file, upload=Upload(note.name, note.read))
        body = {"name": note.name, "url": file, "link_type": "other"}
        reply = yield Call("POST", links, body)
        return {"release": note.tag, "asset": reply.id()}

    def _is_stored(self, note: EvidenceNote) -> Generator[Call, Reply, bool]:
        """The registry keeps a second file of one name beside the first: what arrived is not sent again."""
        asked = f"package_type=generic&package_name={_PACKAGE}&package_version={quote(note.run_id)}"
        for package in (yield Call("GET", f"{self._base}/packages?{asked}")).rows():
            files: Any = yield Call("GET", f"{self._base}/packages/{read_id(package)}/package_files")
            for row in files.rows():
                if row.get("file_name") == note.name and f"sha256:{row.get('file_sha256')}" == note.digest:
                    return True
        return False
