"""What of a run is shown where, and in which words."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.errors import EventError
from maestro_dagster.events.forge import ForgeRepository
from maestro_dagster.events.interface import KINDS
from maestro_dagster.events.report import MOST_FLOWS, RunReport, StepLine, make_wishes
from maestro_dagster.events.report_answer import judge_answer, read_pause
from maestro_dagster.events.report_call import Call, Reply, same_host
from maestro_dagster.events.report_desk import find_api, takes_token
from maestro_dagster.events.report_text import code, describe, make_comment, make_summary

SHA, DIGEST = "a" * 40, "sha256:" + "b" * 64


def report(standing: str = "succeeded", **changes: Any) -> RunReport:
    ended = standing not in {"requested", "running"}
    given: dict[str, Any] = {
        "repository": "shop", "run_id": "r1", "flow": "build", "standing": standing, "sha": SHA,
        "ref": "refs/heads/main", "requested_at": 10.0, "evidence": DIGEST if ended else None,
        "started_at": 11.0, "finished_at": 14.0 if ended else None, "cost_nano": 0 if ended else None,
        "event": "pr" if "number" in changes else "push",
    }  # fmt: skip
    return RunReport(**{**given, **changes})


def merge(*reports: RunReport, kind: str = "status") -> dict[str, Any]:
    body: dict[str, Any] | None = None
    for each in reports:
        for wish in make_wishes(each):
            if wish.kind == kind:
                body = wish.merge(body) or body
    assert body is not None
    return body


def test_a_run_is_shown_where_it_belongs() -> None:
    assert [wish.target for wish in make_wishes(report())] == [f"status:shop:{SHA}:maestro/build"]
    pull = [wish.target for wish in make_wishes(report(number=7))]
    assert pull == [f"status:shop:{SHA}:maestro/build/pr", "comment:shop:7"]
    tag = [wish.target for wish in make_wishes(report(ref="refs/tags/v1"), "maestro/eu")]
    assert tag == [f"status:shop:{SHA}:maestro/eu/build", "release:shop:v1:r1"]
    assert len(make_wishes(report("running", ref="refs/tags/v1"))) == 1


@pytest.mark.parametrize("event", [kind for kind in KINDS if kind != "pr"] + [""])
def test_a_number_that_is_no_pull_requests_is_shown_at_none(event: str) -> None:
    """Releases, pipelines and checks have numbers too: whatever one says, only a `pr` has a comment."""
    wishes = make_wishes(report("running", number=350214487, event=event))
    assert [wish.target for wish in wishes] == [f"status:shop:{SHA}:maestro/build"]


def test_a_run_never_goes_back() -> None:
    assert merge(report(), report("running"))["report"]["standing"] == "succeeded"
    assert merge(report("running"), report())["report"]["standing"] == "succeeded"


def test_an_older_run_never_covers_a_newer_one() -> None:
    newer = report("failed", run_id="r2", requested_at=20.0)
    assert merge(report("running"), newer, report())["report"]["run_id"] == "r2"
    assert merge(newer, report(run_id="r3", requested_at=30.0))["report"]["run_id"] == "r3"


def test_a_comment_shows_the_newest_commit_and_keeps_its_mark() -> None:
    first = merge(report(number=7), kind="comment")
    body = merge(
        report("running", number=7),
        report(number=7, flow="other", run_id="r2"),
        report(number=7, sha="c" * 40, run_id="r3", requested_at=50.0),
        report(number=7),  # of the commit before, late
        kind="comment",
    )
    assert body["sha"] == "c" * 40
    assert list(body["runs"]) == ["build"]
    assert first["marker"] != body["marker"]
    assert re.fullmatch(r"[0-9a-f]{24}", body["marker"])
    wish = make_wishes(report("running", number=7, sha="d" * 40, requested_at=60.0))[1]
    after = wish.merge(body)
    assert after is not None
    assert after["marker"] == body["marker"]


def test_a_comment_has_a_bound() -> None:
    body = merge(*(report(number=7, flow=f"f{index}") for index in range(MOST_FLOWS + 5)), kind="comment")
    assert len(body["runs"]) == MOST_FLOWS


def test_a_report_survives_the_outbox() -> None:
    full = report(steps=(StepLine("a", "pkg:b/c@1.0.0", "done", 5, None),), more_steps=2)
    assert RunReport.from_json(full.to_json()) == full


def test_the_line_says_what_matters() -> None:
    line = describe(report(cost_nano=1_500_000, steps=(StepLine("a", "b", "done", 1, 1),)))
    assert line == f"succeeded in 3.0 s, 1 step, 0.0015 USD, evidence {DIGEST[:19]}"
    assert describe(report("requested")) == "The run is waiting."
    assert describe(report("failed", evidence=None)).endswith("no evidence")


def test_a_price_that_is_not_known_is_not_zero() -> None:
    assert "price not known" in make_summary(report(cost_nano=None))
    assert "0 USD" in make_summary(report(cost_nano=0))


HOSTILE = [
    "](https://evil.example) **bold**",
    "`code` | cell | @everyone",
    "<script>alert(1)</script><!-- ",
    "line\nbreak\r\n# heading",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe\x1b[31m",
    "```\n# out",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("html", [True, False])
def test_words_of_others_stay_words(text: str, html: bool) -> None:
    step = StepLine(text, text, "failed", 1, None)
    told = make_comment([report("failed", flow=text, problem=text, steps=(step,))], html=html)
    check_words(told)
    check_words(make_summary(report("failed", flow=text, problem=text, steps=(step,))))


def check_words(told: str) -> None:
    """Outside of code nothing is left that Markdown, HTML or a forge would act on."""
    fenced = re.split(r"(?m)^```$", told)
    assert len(fenced) in {1, 3}
    outside = "\n".join(fenced[0::2])
    plain = re.sub(r"`[^`\n]*`", "", outside)
    assert not re.search(r"//evil|\*\*bold", plain)
    assert "@" not in plain
    assert "<script" not in plain
    assert "<!--" not in plain
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e]", told)
    heads = [line for line in plain.splitlines() if line.startswith("#")]
    assert all(line.startswith("### Maestro:") for line in heads)
    for line in told.splitlines():
        if line.startswith("|"):
            assert line.count("|") in {6, 7}


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=400))
def test_any_text_is_code_on_one_line(text: str) -> None:
    found = code(text)
    if found:
        assert found[0] == found[-1] == "`"
        assert "`" not in found[1:-1]
        assert found.isprintable()
        assert "|" not in found
        assert len(found) <= 302


def test_one_step_is_one_step() -> None:
    steps = tuple(StepLine(name, "pkg:a/b@1.0.0", "done", 1, 1) for name in "ab")
    one, two = (make_comment([report(number=7, steps=steps[:count])], html=True) for count in (1, 2))
    assert "build: 1 step<" in one
    assert "build: 2 steps<" in two


def test_a_comment_is_never_too_long() -> None:
    steps = tuple(StepLine(f"s{index}" * 40, "pkg:text/template@1.0.0", "done", 1, 1) for index in range(60))
    reports = [report("failed", flow=f"f{index}", problem="x" * 9000, steps=steps) for index in range(50)]
    assert len(make_comment(reports, html=True)) <= 30_000
    few = make_comment(reports[:8], html=True)
    assert few.count("<details>") == few.count("</details>")


@pytest.mark.parametrize(
    ("url", "fits"),
    [
        ("https://forge.example/api/next?page=2", True),
        ("https://forge.example.evil.example/api", False),
        ("https://evil.example/?https://forge.example", False),
        ("https://user@forge.example/x", False),
        ("http://forge.example/x", False),
        ("//forge.example/x", False),
        ("https://forge.example/x y", False),
        ("https://[bad", False),
        ("", False),
    ],
)
def test_a_token_follows_no_address_of_another_server(url: str, fits: bool) -> None:
    if fits:
        assert same_host(url, "https://forge.example/api") == url
        return
    with pytest.raises(EventError) as raised:
        same_host(url, "https://forge.example/api")
    assert raised.value.error_code == "report-malformed"


def test_the_public_interface_is_taken_for_what_is_cloned_from_there_only() -> None:
    assert find_api("s", "github", "https://github.com/a/b.git", None) == "https://api.github.com"
    assert find_api("s", "github", "git@github.com:a/b.git", None) == "https://api.github.com"
    assert find_api("s", "gitlab", "https://git.example/a/b", "https://git.example/api/v4/").endswith("/v4")
    for clone in ("https://git.example/a/b.git", "/srv/shop.git", "https://github.com.evil.example/a/b"):
        with pytest.raises(EventError) as raised:
            find_api("s", "github", clone, None)
        assert raised.value.error_code == "report-api"


@pytest.mark.parametrize(
    ("forge", "clone", "api", "goes"),
    [
        ("github", "https://github.com/a/b.git", None, True),
        ("github", "https://GitHub.com:443/a/b.git", "https://api.github.com", True),
        ("gitlab", "https://gitlab.com/a/b.git", None, True),
        ("bitbucket", "https://bitbucket.org/a/b.git", "https://api.bitbucket.org/2.0", True),
        ("azure-devops", "https://dev.azure.com/o/p/_git/r", "https://dev.azure.com/o", True),
        ("gitea", "https://git.example/a/b.git", "https://git.example/api/v1", True),
        ("gitea", "https://git.example:3000/a/b.git", "https://git.example:3000/api/v1", True),
        ("gitea", "http://127.0.0.1:3000/a/b.git", "http://127.0.0.1:3000/api/v1", True),
        ("gitea", "https://git.example:3000/a/b.git", "https://git.example/api/v1", False),
        ("gitea", "http://git.example/a/b.git", "https://git.example/api/v1", False),
        ("gitea", "https://git.example/a/b.git", None, False),
        ("github", "https://mirror.example/a/b.git", "https://api.github.com", False),
        ("github", "https://github.com.evil.example/a/b.git", "https://api.github.com", False),
        ("gitlab", "https://github.com/a/b.git", "https://gitlab.com/api/v4", False),
        ("github", "https://github.com/a/b.git", "https://ghe.example/api/v3", False),
        ("github", "git@github.com:a/b.git", None, False),
        ("github", "ssh://git@github.com/a/b.git", "https://api.github.com", False),
        ("github", "/srv/shop.git", "https://api.github.com", False),
        ("standard", "https://git.example/a/b.git", None, False),
    ],
)
def test_the_token_goes_with_git_to_the_host_of_the_api_only(
    forge: str, clone: str, api: str | None, goes: bool
) -> None:
    named = ForgeRepository("s", forge, "a/b", clone, ("S",), api, "T")
    assert takes_token(named) is goes


CALL = Call("POST", "https://forge.example/x")


@pytest.mark.parametrize(
    ("reply", "kind", "wait"),
    [
        (Reply(429, None, {"retry-after": "17"}), "report-limited", 17),
        (Reply(429), "report-limited", 60),
        (Reply(429, None, {"retry-after": "soon"}), "report-limited", 0),
        (Reply(429, None, {"retry-after": "999999999"}), "report-limited", 7200),
        (Reply(403, {"message": "You have exceeded a secondary rate limit"}), "report-limited", 60),
        (Reply(403, {"message": "no"}, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1040"}),
         "report-limited", 40),
        (Reply(403, {"message": "Resource not accessible"}), "report-unauthorised", None),
        (Reply(401), "report-unauthorised", None),
        (Reply(203), "report-unauthorised", None),
        (Reply(503, None, {"retry-after": "9"}), "report-unavailable", 9),
        (Reply(500), "report-unavailable", 0),
        (Reply(301), "report-moved", None),
        (Reply(422, {"message": "no such commit"}), "report-refused", None),
        (Reply(404, {"error": {"message": "x\x1b[0m" * 500}}), "report-refused", None),
    ],
)  # fmt: skip
def test_answers_mean_what_forges_mean(reply: Reply, kind: str, wait: float | None) -> None:
    with pytest.raises(EventError) as raised:
        judge_answer(CALL, reply, 1000.0, ["Bearer secret-token-1"])
    assert raised.value.error_code == kind
    assert raised.value.retry_after == wait
    assert len(raised.value.fact) < 300
    assert raised.value.fact.isprintable()


@pytest.mark.parametrize("told", ["Bearer secret-token-1", "secret-token-1", "YTpzZWNyZXQtdG9rZW4tMQ=="])
def test_a_token_that_a_forge_repeats_is_hidden(told: str) -> None:
    headers = ["Bearer secret-token-1", "Basic YTpzZWNyZXQtdG9rZW4tMQ=="]
    with pytest.raises(EventError) as raised:
        judge_answer(CALL, Reply(400, {"message": f"bad: {told}!"}), 0.0, headers)
    assert "secret-token" not in str(raised.value)
    assert "YTpz" not in str(raised.value)
    assert "***" in raised.value.fact


def test_a_taken_call_may_ask_for_a_pause() -> None:
    assert read_pause(Reply(200, None, {"retry-after": "3"}), 0.0) == 3
    assert read_pause(Reply(201, None, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "50"}), 20.0) == 30
    assert read_pause(Reply(200, None, {"x-ratelimit-remaining": "4999"}), 0.0) == 0
