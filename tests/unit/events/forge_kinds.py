"""The forges themselves; see forge_server."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from forge_server import SHA, TOKEN, Answer, Asked, ForgeServer, now, page_of, read_form

STATES = {
    "github": {"error", "failure", "pending", "success"},
    "gitea": {"error", "failure", "pending", "success", "warning"},
    "gitlab": {"pending", "running", "success", "failed", "canceled", "skipped"},
    "bitbucket": {"SUCCESSFUL", "FAILED", "INPROGRESS", "STOPPED"},
    "bitbucket-server": {"SUCCESSFUL", "FAILED", "INPROGRESS", "CANCELLED", "UNKNOWN"},
    "azure-devops": {"notSet", "pending", "succeeded", "failed", "error", "notApplicable"},
}


class GitHub(ForgeServer):
    kind = "github"

    def __init__(self) -> None:
        super().__init__()
        self.token = TOKEN
        self.checks: list[dict[str, Any]] = []
        self.releases: dict[str, dict[str, Any]] = {}
        base = "/repos/acme/shop"
        self.add("POST", base + "/statuses/([0-9a-f]+)", self.post_status)
        self.add("GET", base + "/commits/([0-9a-f]+)/statuses", self.list_statuses)
        self.add("POST", base + "/check-runs", self.post_check)
        self.add("PATCH", base + r"/check-runs/(\d+)", self.patch_check)
        self.add("GET", base + "/commits/([0-9a-f]+)/check-runs", self.list_checks)
        self.add("GET", base + r"/issues/(\d+)/comments", self.list_comments)
        self.add("POST", base + r"/issues/(\d+)/comments", self.post_comment)
        self.add("PATCH", base + r"/issues/comments/(\d+)", self.patch_comment)
        self.add("GET", base + "/releases/tags/(.+)", self.get_release)
        self.add("POST", r"/uploads/(\d+)/assets", self.post_asset)
        self.add("DELETE", base + r"/releases/assets/(\d+)", self.delete_asset)

    def authorised(self, asked: Asked) -> bool:
        assert asked.headers["user-agent"]  # without one GitHub answers 403
        return asked.headers.get("authorization") == f"Bearer {self.token}"

    def post_status(self, asked: Asked, sha: str) -> Answer:
        body = asked.json
        if sha != SHA and not self.any_commit:
            return Answer(422, {"message": f"No commit found for SHA: {sha}"})
        if body["state"] not in STATES[self.kind] or len(body["description"]) > 140:
            return Answer(422, {"message": "Validation Failed"})
        row = {**body, "id": self.next_id(), "created_at": now()}
        self.statuses.insert(0, row)
        return Answer(201, row)

    def list_statuses(self, asked: Asked, _sha: str) -> Answer:
        return Answer(200, page_of(self.statuses, asked))

    def post_check(self, asked: Asked) -> Answer:
        if not self.token.startswith("ghs_"):
            return Answer(403, {"message": "You must authenticate via a GitHub App."})
        body = asked.json
        if body["head_sha"] != SHA or (body["status"] == "completed") != ("conclusion" in body):
            return Answer(422, {"message": "Invalid request."})
        self.checks.append({**body, "id": self.next_id()})
        return Answer(201, self.checks[-1])

    def patch_check(self, asked: Asked, number: str) -> Answer:
        row = next(row for row in self.checks if row["id"] == int(number))
        row.update(asked.json)
        return Answer(200, row)

    def list_checks(self, asked: Asked, _sha: str) -> Answer:
        rows = [row for row in self.checks if row["name"] == asked.query["check_name"]]
        return Answer(200, {"total_count": len(rows), "check_runs": rows})

    def list_comments(self, asked: Asked, number: str) -> Answer:
        return Answer(200, page_of([row for row in self.comments if row["of"] == int(number)], asked))

    def post_comment(self, asked: Asked, number: str) -> Answer:
        body = asked.json["body"]
        if len(body) > 65536:
            return Answer(422, {"message": "Validation Failed"})
        self.comments.append({"id": self.next_id(), "body": body, "of": int(number)})
        return Answer(201, self.comments[-1])

    def patch_comment(self, asked: Asked, number: str) -> Answer:
        for row in self.comments:
            if row["id"] == int(number):
                row["body"] = asked.json["body"]
                return Answer(200, row)
        return Answer(404, {"message": "Not Found"})

    def make_release(self, tag: str) -> dict[str, Any]:
        number = self.next_id()
        url = f"{self.url}/uploads/{number}/assets{{?name,label}}"
        self.releases[tag] = {"id": number, "tag_name": tag, "upload_url": url, "assets": []}
        return self.releases[tag]

    def get_release(self, asked: Asked, tag: str) -> Answer:
        found = self.releases.get(tag)
        return Answer(200, found) if found else Answer(404, {"message": "Not Found"})

    def post_asset(self, asked: Asked, number: str) -> Answer:
        return self.keep_asset(number, asked.query["name"], asked.body)

    def keep_asset(self, number: str, name: str, data: bytes) -> Answer:
        release = next(row for row in self.releases.values() if row["id"] == int(number))
        if any(row["name"] == name for row in release["assets"]):
            return Answer(422, {"message": "Validation Failed", "errors": [{"code": "already_exists"}]})
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        row = {
            "id": self.next_id(), "name": name, "size": len(data), "state": "uploaded", "digest": digest,
        }  # fmt: skip
        release["assets"].append(row)
        self.files[name] = data
        return Answer(201, row)

    def delete_asset(self, asked: Asked, number: str) -> Answer:
        for release in self.releases.values():
            release["assets"] = [row for row in release["assets"] if row["id"] != int(number)]
        return Answer(204)


class Gitea(GitHub):
    kind = "gitea"
    prefix = "/api/v1"

    def __init__(self) -> None:
        super().__init__()
        self.add("POST", r"/repos/acme/shop/releases/(\d+)/assets", self.post_form)
        self.add("DELETE", r"/repos/acme/shop/releases/\d+/assets/(\d+)", self.delete_asset)

    def authorised(self, asked: Asked) -> bool:
        return asked.headers.get("authorization") == f"token {self.token}"

    def list_statuses(self, asked: Asked, _sha: str) -> Answer:
        rows = [
            {"status": row["state"], **{k: v for k, v in row.items() if k != "state"}}
            for row in self.statuses
        ]
        return Answer(200, rows)

    def list_comments(self, asked: Asked, number: str) -> Answer:
        return Answer(200, [row for row in self.comments if row["of"] == int(number)])  # it knows no pages

    def post_form(self, asked: Asked, number: str) -> Answer:
        name, data = read_form(asked, "attachment")
        assert name == asked.query["name"]
        answer = self.keep_asset(number, name, data)
        if isinstance(answer.data, dict):
            answer.data.pop("digest", None)
            answer.data.pop("state", None)
        return answer


class GitLab(ForgeServer):
    kind = "gitlab"
    prefix = "/api/v4"

    def __init__(self) -> None:
        super().__init__()
        self.links: dict[str, list[dict[str, Any]]] = {}
        self.packages: dict[str, list[dict[str, Any]]] = {}
        base = "/projects/acme/shop"
        self.add("POST", base + "/statuses/([0-9a-f]+)", self.post_status)
        self.add("GET", base + "/repository/commits/([0-9a-f]+)/statuses", self.list_statuses)
        self.add("GET", base + r"/merge_requests/(\d+)/notes", self.list_notes)
        self.add("POST", base + r"/merge_requests/(\d+)/notes", self.post_note)
        self.add("PUT", base + r"/merge_requests/\d+/notes/(\d+)", self.put_note)
        self.add("GET", base + "/releases/(.+)/assets/links", self.list_links)
        self.add("POST", base + "/releases/(.+)/assets/links", self.post_link)
        self.add("PUT", base + "/packages/generic/([^/]+)/([^/]+)/([^/]+)", self.put_package)
        self.add("GET", base + "/packages", self.list_packages)
        self.add("GET", base + r"/packages/(\d+)/package_files", self.list_files)

    def authorised(self, asked: Asked) -> bool:
        assert asked.raw.startswith(f"{self.prefix}/projects/acme%2Fshop/")  # else GitLab does not find it
        return asked.headers.get("private-token") == TOKEN

    def refused(self) -> Answer:
        return Answer(401, {"message": "401 Unauthorized"})

    def post_status(self, asked: Asked, sha: str) -> Answer:
        body = asked.json
        if sha != SHA and not self.any_commit:
            return Answer(404, {"message": "404 Commit Not Found"})
        if body["state"] not in STATES["gitlab"] or len(body["description"]) > 255:
            return Answer(400, {"error": "state does not have a valid value"})
        before = next((row for row in self.statuses if row["name"] == body["name"]), None)
        if before and before["status"] == body["state"]:
            return Answer(400, {"message": f"Cannot transition status via :run from :{body['state']}"})
        row = {**body, "status": body["state"], "id": self.next_id()}
        self.statuses.insert(0, row)
        return Answer(201, row)

    def list_statuses(self, asked: Asked, _sha: str) -> Answer:
        rows = [row for row in self.statuses if row["name"] == asked.query["name"]]
        return Answer(200, page_of(rows, asked, 20))

    def list_notes(self, asked: Asked, _number: str) -> Answer:
        assert asked.query["sort"] == "asc"
        return Answer(200, page_of(self.comments, asked, 20))

    def post_note(self, asked: Asked, _number: str) -> Answer:
        self.comments.append({"id": self.next_id(), "body": asked.json["body"], "system": False})
        return Answer(201, self.comments[-1])

    def put_note(self, asked: Asked, number: str) -> Answer:
        for row in self.comments:
            if row["id"] == int(number):
                row["body"] = asked.json["body"]
                return Answer(200, row)
        return Answer(404, {"message": "404 Note Not Found"})

    def list_links(self, asked: Asked, tag: str) -> Answer:
        return (
            Answer(200, self.links[tag]) if tag in self.links else Answer(404, {"message": "404 Not found"})
        )

    def post_link(self, asked: Asked, tag: str) -> Answer:
        if any(row["name"] == asked.json["name"] for row in self.links[tag]):
            return Answer(400, {"message": {"name": ["has already been taken"]}})
        self.links[tag].append({**asked.json, "id": self.next_id()})
        return Answer(201, self.links[tag][-1])

    def put_package(self, asked: Asked, package: str, version: str, name: str) -> Answer:
        digest = hashlib.sha256(asked.body).hexdigest()
        self.packages.setdefault(version, []).append({"file_name": name, "file_sha256": digest})
        self.files[name] = asked.body
        return Answer(201, {"message": "201 Created"})

    def list_packages(self, asked: Asked) -> Answer:
        found = asked.query["package_version"] in self.packages
        return Answer(200, [{"id": 7, "version": asked.query["package_version"]}] if found else [])

    def list_files(self, asked: Asked, _number: str) -> Answer:
        return Answer(200, [row for rows in self.packages.values() for row in rows])


class Bitbucket(ForgeServer):
    kind = "bitbucket"
    prefix = "/2.0"

    def __init__(self) -> None:
        super().__init__()
        base = "/repositories/acme/shop"
        self.add("POST", base + "/commit/([0-9a-f]+)/statuses/build", self.post_status)
        self.add("GET", base + r"/pullrequests/(\d+)/comments", self.list_comments)
        self.add("POST", base + r"/pullrequests/(\d+)/comments", self.post_comment)
        self.add("PUT", base + r"/pullrequests/\d+/comments/(\d+)", self.put_comment)
        self.add("POST", base + "/downloads", self.post_download)

    def authorised(self, asked: Asked) -> bool:
        return asked.headers.get("authorization") == f"Bearer {TOKEN}"

    def post_status(self, asked: Asked, sha: str) -> Answer:
        body = asked.json
        if (
            not body["url"].startswith("http")
            or len(body["key"]) > 40
            or body["state"] not in STATES[self.kind]
        ):
            return Answer(400, {"error": {"message": "Bad request"}})
        self.statuses = [body, *(row for row in self.statuses if row["key"] != body["key"])]
        return Answer(201, body)

    def list_comments(self, asked: Asked, number: str) -> Answer:
        size, page = int(asked.query.get("pagelen", 10)), int(asked.query.get("page", 1))
        rows = self.comments[(page - 1) * size : page * size]
        found: dict[str, Any] = {"pagelen": size, "values": rows, "page": page}
        if page * size < len(self.comments):
            place = f"{self.api}/repositories/acme/shop/pullrequests/{number}/comments"
            found["next"] = f"{place}?pagelen={size}&page={page + 1}"
        return Answer(200, found)

    def post_comment(self, asked: Asked, _number: str) -> Answer:
        self.comments.append({"id": self.next_id(), "deleted": False, **asked.json})
        return Answer(201, self.comments[-1])

    def put_comment(self, asked: Asked, number: str) -> Answer:
        for row in self.comments:
            if row["id"] == int(number) and not row["deleted"]:
                row.update(asked.json)
                return Answer(200, row)
        return Answer(404, {"type": "error", "error": {"message": "not found"}})

    def post_download(self, asked: Asked) -> Answer:
        name, data = read_form(asked, "files")
        self.files[name] = data
        return Answer(201)


class BitbucketServer(ForgeServer):
    kind = "bitbucket-server"
    prefix = "/rest"

    def __init__(self) -> None:
        super().__init__()
        base = "/api/latest/projects/acme/repos/shop"
        self.add("POST", base + "/commits/([0-9a-f]+)/builds", self.post_build)
        self.add("GET", base + r"/pull-requests/\d+/activities", self.list_activities)
        self.add("POST", base + r"/pull-requests/\d+/comments", self.post_comment)
        self.add("GET", base + r"/pull-requests/\d+/comments/(\d+)", self.get_comment)
        self.add("PUT", base + r"/pull-requests/\d+/comments/(\d+)", self.put_comment)

    def authorised(self, asked: Asked) -> bool:
        return asked.headers.get("authorization") == f"Bearer {TOKEN}"

    def refused(self) -> Answer:
        return Answer(401, {"errors": [{"context": None, "message": "Authentication failed."}]})

    def post_build(self, asked: Asked, _sha: str) -> Answer:
        body = asked.json
        if body["state"] not in STATES[self.kind] or not body["url"]:
            return Answer(400, {"errors": [{"message": "invalid"}]})
        self.statuses = [body, *(row for row in self.statuses if row["key"] != body["key"])]
        return Answer(204)

    def list_activities(self, asked: Asked) -> Answer:
        start, size = int(asked.query["start"]), min(int(asked.query["limit"]), 50)
        rows: list[Any] = [{"id": 1, "action": "OPENED"}]
        rows += [{"id": row["id"], "action": "COMMENTED", "comment": row} for row in reversed(self.comments)]
        found = rows[start : start + size]
        last = start + size >= len(rows)
        return Answer(
            200, {"values": found, "isLastPage": last, "nextPageStart": None if last else start + size}
        )

    def post_comment(self, asked: Asked) -> Answer:
        self.comments.append({"id": self.next_id(), "version": 0, "text": asked.json["text"]})
        return Answer(201, self.comments[-1])

    def get_comment(self, asked: Asked, number: str) -> Answer:
        found = next((row for row in self.comments if row["id"] == int(number)), None)
        return Answer(200, found) if found else Answer(404, {"errors": [{"message": "no such comment"}]})

    def put_comment(self, asked: Asked, number: str) -> Answer:
        row = next(row for row in self.comments if row["id"] == int(number))
        if asked.json["version"] != row["version"]:
            return Answer(409, {"errors": [{"message": "it has been updated since"}]})
        row.update(text=asked.json["text"], version=row["version"] + 1)
        return Answer(200, row)


class AzureDevOps(ForgeServer):
    kind = "azure-devops"
    prefix = "/org"

    def __init__(self) -> None:
        super().__init__()
        self.pr_statuses: list[dict[str, Any]] = []
        self.threads: list[dict[str, Any]] = []
        base = "/acme/_apis/git/repositories/shop"
        self.add(
            "POST", base + "/commits/[0-9a-f]+/statuses", lambda asked: self.post_status(asked, self.statuses)
        )
        self.add(
            "GET",
            base + "/commits/[0-9a-f]+/statuses",
            lambda asked: self.list_statuses(asked, self.statuses),
        )
        place = base + r"/pullRequests/\d+/statuses"
        self.add("POST", place, lambda asked: self.post_status(asked, self.pr_statuses))
        self.add("GET", place, lambda asked: self.list_statuses(asked, self.pr_statuses))
        self.add("GET", base + r"/pullRequests/\d+/threads", self.list_threads)
        self.add("POST", base + r"/pullRequests/\d+/threads", self.post_thread)
        self.add("PATCH", base + r"/pullRequests/\d+/threads/(\d+)/comments/(\d+)", self.patch_comment)

    def authorised(self, asked: Asked) -> bool:
        assert asked.query["api-version"] == "7.1"
        basic = base64.b64encode(f":{TOKEN}".encode()).decode()
        return asked.headers.get("authorization") == f"Basic {basic}"

    def refused(self) -> Answer:
        return Answer(203, text="<html>Azure DevOps Services | Sign In</html>")

    def post_status(self, asked: Asked, rows: list[dict[str, Any]]) -> Answer:
        body = asked.json
        assert body["state"] in STATES[self.kind]
        rows.insert(0, {**body, "id": self.next_id()})
        return Answer(201, rows[0])

    def list_statuses(self, _asked: Asked, rows: list[dict[str, Any]]) -> Answer:
        return Answer(200, {"count": len(rows), "value": rows})

    def list_threads(self, _asked: Asked) -> Answer:
        return Answer(200, {"count": len(self.threads), "value": self.threads})

    def post_thread(self, asked: Asked) -> Answer:
        body = asked.json
        comments = [{**row, "id": index + 1} for index, row in enumerate(body["comments"])]
        self.threads.append({"id": self.next_id(), "comments": comments, "status": body["status"]})
        self.comments = [row for thread in self.threads for row in thread["comments"]]
        return Answer(200, self.threads[-1])

    def patch_comment(self, asked: Asked, thread: str, number: str) -> Answer:
        for row in self.threads:
            if row["id"] == int(thread):
                comment = row["comments"][int(number) - 1]
                comment.update(asked.json)
                return Answer(200, comment)
        return Answer(404, {"message": "TF401180"})


KINDS = {kind.kind: kind for kind in (GitHub, Gitea, GitLab, Bitbucket, BitbucketServer, AzureDevOps)}
