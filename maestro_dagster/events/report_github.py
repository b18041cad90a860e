"""GitHub, also Enterprise Server: statuses or check runs, comments of pull requests, assets of releases.

docs.github.com/rest: commits/statuses, checks/runs, issues/comments, releases/assets. Check runs can only
be made by a GitHub App, so they are used with its tokens (`ghs_...`) and statuses with all others.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from datetime import UTC, datetime
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
    no_release,
    read_id,
    same_host,
)

_STATES = {"requested": "pending", "running": "pending", "succeeded": "success", "cancelled": "error"}
_CONCLUSIONS = {"succeeded": "success", "cancelled": "cancelled"}
_APP_TOKEN = "ghs_"  # noqa: S105 - how such tokens begin
_GONE = (404, 410)


class GitHubDesk:
    html = True
    _told: Mapping[str, str] = {}  # what answers call something that requests call otherwise

    def __init__(self, destination: Destination) -> None:
        self._api = destination.api
        self._base = f"{destination.api}/repos/{quote(destination.repository)}"
        self._app = False

    def headers(self, token: str) -> Mapping[str, str]:
        self._app = token.startswith(_APP_TOKEN)
        return {
            "authorization": f"Bearer {token}",
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
        }

    def set_status(self, note: StatusNote, known: Known) -> Talk:
        return self._set_check(note, known) if self._app else self._set_status(note)

    def _set_status(self, note: StatusNote) -> Talk:
        wanted = {
            "state": _STATES.get(note.standing, "failure"),
            "target_url": note.url,
            "description": note.description,
            "context": note.context,
        }
        if note.unsure:  # a status is never changed, only followed by another: do not say it twice
            url = f"{self._base}/commits/{note.sha}/statuses?per_page={PAGE}"
            rows = (yield Call("GET", url)).rows()
            newest = next((row for row in rows if row.get("context") == note.context), {})
            if all(newest.get(self._told.get(key, key)) == value for key, value in wanted.items()):
                return {}
        yield Call("POST", f"{self._base}/statuses/{note.sha}", wanted)
        return {}

    def _set_check(self, note: StatusNote, known: Known) -> Talk:
        body = _check(note)
        found = known.get("check") if known.get("run_id") == note.run_id else None
        if found is None:
            found = yield from self._find_check(note)
        if found is not None:
            reply = yield Call("PATCH", f"{self._base}/check-runs/{found}", body, also=_GONE)
            if reply.ok:
                return {"check": found, "run_id": note.run_id}
        reply = yield Call("POST", f"{self._base}/check-runs", {**body, "head_sha": note.sha})
        return {"check": reply.id(), "run_id": note.run_id}

    def _find_check(self, note: StatusNote) -> Generator[Call, Reply, int | str | None]:
        name = quote(note.context, safe="")
        url = f"{self._base}/commits/{note.sha}/check-runs?check_name={name}&filter=all&per_page={PAGE}"
        rows = (yield Call("GET", url)).rows("check_runs")
        return next((read_id(row) for row in rows if row.get("external_id") == note.run_id), None)

    def set_comment(self, note: CommentNote, known: Known) -> Talk:
        marker = f"<!-- maestro {note.marker} -->"
        body = {"body": f"{marker}\n{note.text}"}
        found = known.get("comment")
        if found is None:
            found = yield from self._find_comment(note.number, marker)
        if found is not None:
            reply = yield Call("PATCH", f"{self._base}/issues/comments/{found}", body, also=_GONE)
            if reply.ok:
                return {"comment": found}
        reply = yield Call("POST", f"{self._base}/issues/{note.number}/comments", body)
        return {"comment": reply.id()}

    def _find_comment(self, number: int, marker: str) -> Generator[Call, Reply, int | str | None]:
        seen: set[int | str] = set()
        for page in range(1, MOST_PAGES + 1):
            url = f"{self._base}/issues/{number}/comments?per_page={PAGE}&page={page}"
            rows = (yield Call("GET", url)).rows()
            for row in rows:
                if marker in str(row.get("body")):
                    return read_id(row)
            fresh = {read_id(row) for row in rows} - seen
            if not fresh:  # the end, or a server that knows no pages
                break
            seen |= fresh
        return None

    def attach_evidence(self, note: EvidenceNote) -> Talk:
        reply = yield Call("GET", f"{self._base}/releases/tags/{quote(note.tag, safe='')}", also=(404,))
        if not reply.ok:
            raise no_release()
        release = reply.table()
        for asset in release.get("assets") or ():
            if asset.get("name") == note.name:
                if _is_whole(asset, note):
                    return {"release": read_id(release), "asset": read_id(asset)}
                # Left by an upload that broke off: its name is taken, its content is not there.
                yield Call("DELETE", self._asset_url(release, asset), also=_GONE)
        reply = yield self._upload(release, note)
        return {"release": read_id(release), "asset": reply.id()}

    def _asset_url(self, release: Mapping[str, Any], asset: Mapping[str, Any]) -> str:
        return f"{self._base}/releases/assets/{read_id(asset)}"

    def _upload(self, release: Mapping[str, Any], note: EvidenceNote) -> Call:
        more = ("uploads.github.com",) if self._api == "https://api.github.com" else ()
        told = release.get("upload_url")
        if not isinstance(told, str) or not told:
            raise malformed("the release has no `upload_url`")
        url = same_host(told.partition("{")[0], self._api, *more)
        return Call("POST", f"{url}?name={quote(note.name)}", upload=Upload(note.name, note.read))


class GiteaDesk(GitHubDesk):
    """Gitea and Forgejo: statuses, comments and release assets, at nearly the same addresses."""

    _told: Mapping[str, str] = {"state": "status"}

    def headers(self, token: str) -> Mapping[str, str]:
        return {"authorization": f"token {token}", "accept": "application/json"}

    def _asset_url(self, release: Mapping[str, Any], asset: Mapping[str, Any]) -> str:
        return f"{self._base}/releases/{read_id(release)}/assets/{read_id(asset)}"

    def _upload(self, release: Mapping[str, Any], note: EvidenceNote) -> Call:
        url = f"{self._base}/releases/{read_id(release)}/assets?name={quote(note.name)}"
        return Call("POST", url, upload=Upload(note.name, note.read, form="attachment"))


def _check(note: StatusNote) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": note.context,
        "external_id": note.run_id,
        "output": {"title": note.title, "summary": note.summary},
    }
    if note.url:
        body["details_url"] = note.url
    if note.started_at is not None:
        body["started_at"] = _moment(note.started_at)
    if note.standing in {"requested", "running"}:
        body["status"] = "queued" if note.standing == "requested" else "in_progress"
    else:
        body |= {"status": "completed", "conclusion": _CONCLUSIONS.get(note.standing, "failure")}
        if note.finished_at is not None:
            body["completed_at"] = _moment(note.finished_at)
    return body


def _is_whole(asset: Mapping[str, Any], note: EvidenceNote) -> bool:
    """A digest is told by newer servers only; `state` by GitHub, not by Gitea."""
    return (
        asset.get("size") == note.size
        and asset.get("state", "uploaded") == "uploaded"
        and asset.get("digest") in {None, note.digest}
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
