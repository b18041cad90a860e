"""Against forges that speak their real protocol on this machine, and fail in the ways that forges fail."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from forge_kinds import KINDS, GitHub
from forge_server import (
    SHA,
    TOKEN,
    Answer,
    Fault,
    ForgeServer,
    fails,
    hangs_up,
    hangs_up_after,
    shows_page,
    stalls,
    stalls_after,
)

from maestro_dagster.database.sqlite import SqliteDatabase
from maestro_dagster.events.outbox import TABLES, WORDING, Outbox
from maestro_dagster.events.report import RunReport, StepLine, make_wishes
from maestro_dagster.events.report_call import Destination
from maestro_dagster.events.report_send import Patience, Sender, Sent

BUNDLE = b"PK evidence"
DIGEST = f"sha256:{hashlib.sha256(BUNDLE).hexdigest()}"
CALM = Patience(call=30.0, whole=120.0, claim=30.0)  # a busy machine is no reason to fail
HURRIED = Patience(call=0.5, whole=120.0, claim=30.0)  # for a forge that stalls


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Office:
    """A forge, an outbox and a sender with a clock of their own."""

    def __init__(self, forge: ForgeServer, folder: Path, patience: Patience = CALM) -> None:
        self.forge, self.clock, self.token, self.patience = forge, Clock(), TOKEN, patience
        database = SqliteDatabase(folder / "outbox.sqlite", tables=TABLES, wording=WORDING)
        self.outbox = Outbox(database)
        self.sender = self.make_sender()

    def make_sender(self) -> Sender:
        forge = self.forge
        there = {"shop": Destination("shop", forge.kind, forge.repository, forge.api)}
        return Sender(
            self.outbox,
            there,
            lambda _: self.token,
            lambda _: BUNDLE,
            patience=self.patience,
            clock=self.clock,
        )

    def put(self, *reports: RunReport) -> None:
        for report in reports:
            self.outbox.put(make_wishes(report), {}, self.clock())

    def send(self) -> list[Sent]:
        return asyncio.run(self.sender.send_due())

    def send_all(self, passes: int = 30, seconds: float = 60.0) -> list[Sent]:
        found = []
        for _ in range(passes):
            found += self.send()
            if self.outbox.counts()["due"] == 0:
                break
            self.clock.now += seconds
        return found


def report(standing: str = "succeeded", **changes: Any) -> RunReport:
    ended = standing not in {"requested", "running"}
    given: dict[str, Any] = {
        "repository": "shop", "run_id": "r1", "flow": "build", "standing": standing, "sha": SHA,
        "ref": "refs/heads/feature", "requested_at": 10.0, "number": 7, "event": "pr", "started_at": 11.0,
        "finished_at": 14.2 if ended else None, "cost_nano": 1_200_000 if ended else None,
        "evidence": DIGEST if ended else None, "url": "https://maestro.example/dagster/runs/d1",
        "steps": (StepLine("test", "pkg:python/test@1.0.0", "done", 3100, 1_200_000),) if ended else (),
    }  # fmt: skip
    return RunReport(**{**given, **changes})


@contextmanager
def office_of(kind: str, folder: Path, patience: Patience = CALM) -> Iterator[Office]:
    with KINDS[kind]().serve() as forge:
        office = Office(forge, folder, patience)
        yield office
        office.outbox.close()


@pytest.fixture(params=sorted(KINDS))
def office(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Office]:
    with office_of(request.param, tmp_path) as found:
        yield found


@pytest.fixture
def github(tmp_path: Path) -> Iterator[Office]:
    with office_of("github", tmp_path) as found:
        yield found


def shown(forge: ForgeServer) -> tuple[str, str, str]:
    """State, description and link of the newest status."""
    row = forge.statuses[0]
    state = row.get("state") or row.get("status")
    return state, row["description"], row.get("target_url") or row.get("targetUrl") or row.get("url")


def text_of(comment: dict[str, Any]) -> str:
    found = comment.get("body") or comment.get("text") or comment.get("content")
    return found["raw"] if isinstance(found, dict) else str(found)


SUCCESS = {"success", "SUCCESSFUL", "succeeded"}
FAILURE = {"failure", "failed", "FAILED"}
PENDING = {"pending", "INPROGRESS"}


def test_a_commit_shows_how_its_run_stands(office: Office) -> None:
    office.put(report("requested"))
    assert [sent.error for sent in office.send()] == [None, None]
    assert shown(office.forge)[0] in PENDING
    office.put(report())
    office.send()
    state, description, url = shown(office.forge)
    assert state in SUCCESS
    assert description == f"succeeded in 3.2 s, 1 step, 0.0012 USD, evidence {DIGEST[:19]}"
    assert url == "https://maestro.example/dagster/runs/d1"
    office.put(report("failed", run_id="r2", requested_at=20.0, problem="test: 3 tests failed"))
    office.send()
    assert shown(office.forge)[0] in FAILURE


def test_a_pull_request_has_one_comment_that_is_updated(office: Office) -> None:
    for standing in ("requested", "running", "succeeded"):
        office.put(report(standing))
        office.send()
    office.put(report("denied", flow="release", run_id="r2", problem="licence is not allowed"))
    office.send()
    assert len(office.forge.comments) == 1
    text = text_of(office.forge.comments[0])
    assert "1 of 2 flows denied" in text
    assert "`licence is not allowed`" in text
    assert "| `test` | `python/test@1.0.0` | done | 3.1 s | 0.0012 USD |" in text
    assert f"r1.zip  {DIGEST}" in text


def test_what_did_not_change_is_not_sent_again(office: Office) -> None:
    office.put(report())
    office.send()
    calls = len(office.forge.calls)
    office.put(report())
    assert office.send_all() == []
    assert len(office.forge.calls) == calls


FAULTS: dict[str, Fault] = {
    "500": fails(500),
    "502": fails(502),
    "page": shows_page,
    "429": fails(429, Retry_After="30"),
    "hang-up": hangs_up,
    "hang-up-after": hangs_up_after,
    "stall": stalls,
    "stall-after": stalls_after,
}


# Each forge with the worst that can happen, two forges with everything.
@pytest.mark.parametrize(
    ("kind", "fault"),
    [(kind, fault) for kind in sorted(KINDS) for fault in ("500", "hang-up-after")]
    + [(kind, fault) for kind in ("github", "gitlab") for fault in sorted(FAULTS)
       if fault not in {"500", "hang-up-after"}],
)  # fmt: skip
def test_a_bad_moment_is_waited_for_and_nothing_is_shown_twice(kind: str, fault: str, tmp_path: Path) -> None:
    with office_of(kind, tmp_path, HURRIED if fault.startswith("stall") else CALM) as office:
        meet_everywhere(office, FAULTS[fault])


def meet_everywhere(office: Office, fault: Fault) -> None:
    """At whichever call it comes."""
    position = 0
    while position < 8:
        office.forge.faults.extend([None] * position + [fault])
        number = 100 + position
        office.put(report(number=number, run_id=f"r{position}", flow=f"flow{position}"))
        sent = office.send_all()
        over = bool(office.forge.faults)  # it came after the last call
        office.forge.faults.clear()
        marker = f"`flow{position}`"
        assert office.outbox.counts()["due"] == 0
        found = [text for text in map(text_of, office.forge.comments) if marker in text]
        assert len(found) == 1, (position, sent)
        names = [row.get("context") or row.get("name") for row in office.forge.statuses]
        told = [name for name in names if f"flow{position}" in str(name)]
        assert len(told) == 1, (position, told)
        if over:
            break
        # aiohttp itself asks again where a reading call was hung up on.
        assert any(one.error for one in sent) or fault in {hangs_up, hangs_up_after}
        position += 1
    assert position >= 2


def test_the_token_is_in_no_error_and_a_new_one_counts_at_once(office: Office) -> None:
    office.token = "wrong-token-0123456789"
    office.put(report())
    sent = office.send()
    assert {one.error.error_code for one in sent if one.error} == {"report-unauthorised"}
    assert not any(one.gave_up for one in sent)
    told = str(office.outbox.entries()) + str([one.error for one in sent])
    assert "wrong-token" not in told
    office.token = TOKEN
    office.send_all()
    assert office.outbox.counts() == {"due": 0, "sent": 2, "given-up": 0, "no-release": 0}


def test_a_forge_that_repeats_the_token_does_not_get_it_into_the_error(office: Office) -> None:
    secrets = [TOKEN]
    office.forge.faults.append(lambda server, _: Answer(400, {
        "message": f"what is {server.calls[-1].headers.get('authorization')} or {TOKEN}?"}))  # fmt: skip
    office.put(report(number=None))
    (sent,) = office.send()
    if sent.error is not None:  # GitLab is asked again after a 400
        assert sent.error.error_code == "report-refused"
        assert not any(secret in str(sent.error) for secret in secrets)
        assert "Basic " not in str(sent.error) or "***" in str(sent.error)


def test_what_is_refused_is_given_up_and_new_news_are_sent(office: Office) -> None:
    office.forge.faults.extend([fails(422)] * 40)
    office.put(report(number=None))
    sent = office.send_all()
    assert sent[-1].gave_up
    assert len(sent) == CALM.refused
    assert office.outbox.counts()["given-up"] == 1
    office.forge.faults.clear()
    office.put(report(number=None, run_id="r2", requested_at=20.0))
    office.send_all()
    assert shown(office.forge)[0] in SUCCESS


def test_a_forge_that_wants_a_pause_gets_it(office: Office) -> None:
    office.forge.faults.append(fails(429, Retry_After="300"))
    office.put(report(), report(run_id="r2", flow="other"))
    office.send()
    calls = len(office.forge.calls)
    office.clock.now += 100
    office.put(report("failed", run_id="r3", requested_at=30.0))
    assert office.send() == []
    assert len(office.forge.calls) == calls
    office.clock.now += 201
    office.send_all()
    assert office.outbox.counts()["due"] == 0


def test_github_says_403_for_a_limit(github: Office) -> None:
    reset = str(int(github.clock.now) + 900)
    fault = fails(
        403, {"message": "API rate limit exceeded"}, x_ratelimit_remaining="0", x_ratelimit_reset=reset
    )
    github.forge.faults.append(fault)
    github.put(report(number=None))
    (sent,) = github.send()
    assert sent.error is not None
    assert sent.error.error_code == "report-limited"
    assert 890 < (sent.error.retry_after or 0) <= 900


def test_a_redirection_is_not_followed(office: Office, tmp_path: Path) -> None:
    with GitHub().serve() as other:
        office.forge.faults.extend([fails(307, location=other.url + "/x")] * 9)
        office.put(report(number=None))
        (sent,) = office.send()
        assert sent.error is not None
        assert sent.error.error_code == "report-moved"
        assert other.calls == []


def test_the_next_page_is_on_the_same_server(tmp_path: Path) -> None:
    with office_of("bitbucket", tmp_path) as office, GitHub().serve() as other:
        found = {"values": [], "next": f"{other.url}/2.0/more"}
        office.put(report())
        office.forge.faults.append(lambda *_: Answer(200, found))
        sent = office.send()
        assert [one.error.error_code for one in sent if one.error] == ["report-malformed"]
        assert other.calls == []


def test_an_upload_goes_to_the_forge_only(github: Office) -> None:
    with GitHub().serve() as other:
        github.forge.make_release("v1")["upload_url"] = f"{other.url}/uploads/1/assets{{?name}}"
        github.put(report(number=None, ref="refs/tags/v1"))
        assert "report-malformed" in {one.error.error_code for one in github.send() if one.error}
        assert other.calls == []


def test_a_comment_is_found_behind_those_of_others(office: Office) -> None:
    """Its id was lost: the answer to the first call never came."""
    office.put(report("running"))
    others = [{"id": index, "version": 0, "body": "x", "text": "x", "content": {"raw": "x"}, "of": 7,
               "deleted": False} for index in range(1000, 1250)]  # fmt: skip
    office.forge.comments.extend(others)
    entry = next(each for each in office.outbox.entries() if each.kind == "comment")
    office.forge.faults.extend([None] * 20)
    office.send_all()
    own = [row for row in office.forge.comments if entry.body["marker"] in text_of(row)]
    assert len(own) == 1
    office.outbox._database.run_write(lambda c: c.execute("UPDATE report SET known = '{}'").rowcount)
    office.put(report())
    office.send_all()
    own = [row for row in office.forge.comments if entry.body["marker"] in text_of(row)]
    assert len(own) == 1
    assert "succeeded" in text_of(own[0])


def test_a_comment_that_a_person_deleted_comes_again_with_news(office: Office) -> None:
    office.put(report("running"))
    office.send()
    office.forge.comments.clear()
    if office.forge.kind == "azure-devops":
        office.forge.threads.clear()
    office.put(report())
    office.send_all()
    assert len(office.forge.comments) == 1


@pytest.mark.parametrize("kind", ["github", "gitea", "gitlab", "bitbucket"])
@pytest.mark.parametrize("fault", [None, "500", "hang-up", "hang-up-after"])
def test_the_evidence_is_attached_to_its_release_once(kind: str, fault: str | None, tmp_path: Path) -> None:
    with office_of(kind, tmp_path) as office:
        for position in range(5 if fault else 1):
            tag = f"v{position}"
            if kind in {"github", "gitea"}:
                office.forge.make_release(tag)
            elif kind == "gitlab":
                office.forge.links[tag] = []
            office.put(report(number=None, ref=f"refs/tags/{tag}", run_id=f"run{position}"))
            if fault:
                office.forge.faults.extend([None] * position + [FAULTS[fault]])
            office.send_all()
            office.forge.faults.clear()
            assert office.outbox.counts()["due"] == 0
            assert office.forge.files[f"evidence-build-run{position}.zip"] == BUNDLE
            if kind in {"github", "gitea"}:
                assert len(office.forge.releases[tag]["assets"]) == 1
            elif kind == "gitlab":
                assert len(office.forge.links[tag]) == 1
                assert len(office.forge.packages[f"run{position}"]) == 1


def test_an_upload_that_broke_off_is_replaced(github: Office) -> None:
    release = github.forge.make_release("v1")
    release["assets"].append(
        {"id": 5, "name": "evidence-build-r1.zip", "size": len(BUNDLE), "state": "starter"}
    )
    github.put(report(number=None, ref="refs/tags/v1"))
    github.send_all()
    assert [(row["size"], row["state"]) for row in release["assets"]] == [(len(BUNDLE), "uploaded")]


@pytest.mark.parametrize("kind", ["bitbucket", "bitbucket-server", "azure-devops"])
def test_a_forge_without_releases_has_no_trouble_with_a_tag(kind: str, tmp_path: Path) -> None:
    with office_of(kind, tmp_path) as office:
        office.put(report(number=None, ref="refs/tags/v9"))
        assert [sent.error for sent in office.send_all()] == [None, None]


@pytest.mark.parametrize("kind", ["github", "gitea", "gitlab"])
def test_a_release_that_is_made_after_the_run_gets_its_evidence(kind: str, tmp_path: Path) -> None:
    """The tag's run ends before somebody publishes the draft; and many a tag never gets a release."""
    with office_of(kind, tmp_path) as office:
        office.put(report(number=None, ref="refs/tags/v1"))
        told = office.send_all(passes=5, seconds=3600.0)
        assert {sent.error.error_code for sent in told if sent.error} == {"report-no-release"}
        assert (office.forge.files, office.outbox.counts()["due"]) == ({}, 1)
        if kind == "gitlab":
            office.forge.links["v1"] = []
        else:
            office.forge.make_release("v1")
        office.send_all()
        assert office.forge.files == {"evidence-build-r1.zip": BUNDLE}
        assert office.outbox.counts() == {"due": 0, "sent": 2, "given-up": 0, "no-release": 0}
        office.put(report(number=None, ref="refs/tags/v2", run_id="r2"))
        begin = office.clock()
        told = office.send_all(passes=100, seconds=1800.0)
        assert told[-1].gave_up
        assert len(told) < 70
        assert 86400 <= office.clock() - begin < 86400 + 3600
        assert office.outbox.counts() == {"due": 0, "sent": 2, "given-up": 0, "no-release": 1}


def test_a_release_that_names_no_place_for_files_is_told_as_that(github: Office) -> None:
    github.forge.make_release("v1").pop("upload_url")
    github.put(report(number=None, ref="refs/tags/v1"))
    (error,) = (sent.error for sent in github.send() if sent.error)
    assert (error.error_code, "upload_url" in error.fact) == ("report-malformed", True)


def test_a_tag_without_a_release_holds_up_no_other_report(github: Office) -> None:
    github.put(report(number=None, ref="refs/tags/v1"), report(number=None, run_id="r2", flow="other"))
    github.send()
    assert len(github.forge.statuses) == 2


def test_other_evidence_than_the_reported_is_not_attached(github: Office) -> None:
    github.forge.make_release("v1")
    github.put(report(number=None, ref="refs/tags/v1", evidence="sha256:" + "0" * 64))
    sent = github.send_all()
    assert {one.error.error_code for one in sent if one.error} == {"report-evidence"}
    assert github.forge.files == {}


def test_what_waits_for_a_wrong_pull_request_is_not_sent(office: Office) -> None:
    """Rows that a version wrote which took other numbers for those of pull requests."""
    office.put(report("running"))
    rows = office.outbox.database.run_read(lambda c: c.execute("SELECT target, body FROM report").fetchall())
    for target, body in rows:
        old = body.replace(',"event":"pr"', "").replace('"event":"pr",', "")
        assert old != body
        office.outbox.database.run_write(
            lambda c, t=target, b=old: c.execute("UPDATE report SET body = ? WHERE target = ?", (b, t))  # type: ignore[misc]
        )
    office.send_all()
    assert office.forge.comments == []
    asked = [call.path.lower() for call in office.forge.calls]
    assert not any(word in path for path in asked for word in ("pull", "merge_requests", "issues"))


def test_an_app_of_github_makes_checks(github: Office) -> None:
    github.token = github.forge.token = "ghs_0123456789abcdef"
    github.put(report("requested", number=None))
    github.send()
    github.forge.faults.append(hangs_up_after)
    github.put(report(number=None))
    github.send_all()
    (check,) = github.forge.checks
    assert (check["status"], check["conclusion"]) == ("completed", "success")
    assert "| `test` | `python/test@1.0.0` | done | 3.1 s | 0.0012 USD |" in check["output"]["summary"]
    assert check["completed_at"] == "1970-01-01T00:00:14Z"
    assert github.forge.statuses == []
    github.put(report("failed", number=None, run_id="r2", requested_at=20.0))
    github.send_all()
    assert [row["conclusion"] for row in github.forge.checks] == ["success", "failure"]


def test_a_sender_that_died_is_followed_by_another(github: Office) -> None:
    github.put(report(number=None))
    dead = github.outbox.claim("dead", 10, github.clock(), CALM.claim)
    assert len(dead) == 1
    assert github.send() == []
    github.clock.now += CALM.claim + 1
    assert [sent.error for sent in github.send()] == [None]
    assert github.forge.calls[0].method == "GET"  # it may have arrived: look first


def test_two_senders_share_the_work(office: Office) -> None:
    for index in range(10):
        office.put(report(number=index + 1, run_id=f"r{index}", flow=f"f{index}"))
    other = office.make_sender()

    async def both() -> None:
        for _ in range(6):
            await asyncio.gather(office.sender.send_due(), other.send_due())

    asyncio.run(both())
    assert office.outbox.counts() == {"due": 0, "sent": 20, "given-up": 0, "no-release": 0}
    assert len(office.forge.comments) == 10
    assert len({text_of(row).partition("`f")[2].partition("`")[0] for row in office.forge.comments}) == 10


def test_a_repository_that_is_no_longer_known_waits(github: Office) -> None:
    github.put(report(number=None, repository="gone"))
    (sent,) = github.send()
    assert sent.error is not None
    assert (sent.error.error_code, sent.gave_up, sent.calls) == ("report-unknown", False, 0)


def test_an_answer_without_an_end_is_refused(github: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maestro_dagster.events.report_send._LONGEST_ANSWER", 100)
    github.forge.faults.append(lambda *_: Answer(200, text="x" * 1000))
    github.put(report(number=None))
    (sent,) = github.send()
    assert sent.error is not None
    assert sent.error.error_code == "report-malformed"
