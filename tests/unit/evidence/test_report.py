from __future__ import annotations

import base64
import re
from collections.abc import Callable
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from maestro_dagster.evidence.archive import read_archive
from maestro_dagster.evidence.bundle import build_bundle
from maestro_dagster.evidence.interface import Claim, OutputRef, RunRecord
from maestro_dagster.evidence.key import KeySigner
from maestro_dagster.evidence.report import REPORT_VERSION
from maestro_dagster.evidence.timeline import draw_timeline
from maestro_dagster.evidence.verify import verify_bundle

Record = Callable[..., RunRecord]
EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>\u202egnp.exe\x00\x1b[2J"
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Collects tags and attributes; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def report_of(record: RunRecord, signer: KeySigner) -> str:
    data = build_bundle(record, signer)
    assert verify_bundle(data, [signer.public_pem]).problems == ()
    return read_archive(data)["report.html"].decode()


def evil_record(record: Record) -> RunRecord:
    changes = {
        "rss": {
            "status": "failed",
            "error": {"code": EVIL, "fact": EVIL},
            "model": {"provider": EVIL, "model": EVIL, "generative": False},
            "isolation": "none",
            "output": OutputRef("sha256:" + "0" * 64, EVIL, 3, ((EVIL, "sha256:" + "0" * 64),)),
            "iterations": ({EVIL: EVIL},),
        },
        "parse": {"status": "skipped", "reason": EVIL, "inputs": (), "output": None},
        "summary": {"status": "reused", "reused_from": EVIL, "inputs": ()},
    }
    verdict = {
        "pack": EVIL,
        "digest": EVIL,
        "allow": True,
        "violations": [{"rule": EVIL, "step": EVIL, "message": EVIL, "remedy": EVIL}, EVIL],
        "warnings": [EVIL],
    }
    costs = record().cost_report
    lines = {"by_kind": [{"kind": EVIL, "events": EVIL, "total_usd": EVIL}], "by_model": [{"model": EVIL}]}
    return record(
        changes=changes,
        built=(),
        status=EVIL,
        started_at=EVIL,
        finished_at=EVIL,
        decisions={"allow": True, "engine": EVIL, "verdicts": [verdict, EVIL]},
        context={EVIL: {EVIL: [EVIL]}, "actor": EVIL},
        warnings=(EVIL,),
        cost_report=costs | lines,
    )


def test_nothing_of_a_hostile_run_becomes_markup(record: Record, signer: KeySigner) -> None:
    text = report_of(evil_record(record), signer)
    page = Page(text)
    assert not {"script", "img", "a", "link", "iframe", "object", "form"} & set(page.tags)
    assert not [
        name for name, _ in page.attributes if name.startswith("on") or name in ("style", "src", "href")
    ]
    assert "\u202e" not in text
    assert "\x00" not in text
    assert "\x1b" not in text
    assert "\\u{202e}" in text


def test_it_refers_to_nothing_outside(record: Record, signer: KeySigner) -> None:
    text = report_of(record(), signer)
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_its_content_policy_names_its_own_style_only(record: Record, signer: KeySigner) -> None:
    text = report_of(record(), signer)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(sha256(style.group(1).encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy.group(1)
    assert f"style-src 'sha256-{digest}'" in policy.group(1)
    assert "prefers-color-scheme:dark" in style.group(1)
    assert "@media print" in style.group(1)


def test_it_tells_what_a_person_asks(record: Record, signer: KeySigner) -> None:
    changes = {"rss": {"model": {"provider": "builtin", "model": "extract", "generative": False}}}
    made = record(changes=changes, warnings=("advisories have no age limit",))
    text = " ".join(Page(report_of(made, signer)).words).replace("\xa0", " ")
    for word in (
        "daily-brief 1.0.0", "run-01", "succeeded", "rss", "parse", "summary", "0.003 USD", "allowed",
        "regorus", "pii", "ada", "manual", "extractive, not generative", "advisories have no age limit",
        made.flow_digest, signer.hint, "Timeline of the run",
    ):  # fmt: skip
        assert word in text, word


def test_a_denied_run_says_so(record: Record, signer: KeySigner) -> None:
    skipped = {"status": "skipped", "reason": "denied", "inputs": (), "cost_usd": "0"}
    changes = dict.fromkeys(("rss", "parse", "summary"), skipped)
    violation = {"rule": "pii-retention", "step": "", "message": "too long", "remedy": "use short-30d"}
    verdict = {"pack": "pii", "digest": "sha256:0", "allow": False, "violations": [violation]}
    decisions = {"allow": False, "engine": "regorus", "verdicts": [verdict]}
    made = record(changes=changes, decisions=decisions, status="denied", built=())
    text = " ".join(Page(report_of(made, signer)).words).replace("\xa0", " ")
    assert "denied" in text
    assert "pii-retention" in text
    assert "use short-30d" in text


def test_an_old_bundle_is_rendered_as_it_was(record: Record) -> None:
    # When this fails, make the change a new version beside the old one: bundles out there hold the old.
    class Nobody:
        algorithm, hint, public_pem = "ed25519", "hint", b""

        @staticmethod
        def sign(payload: bytes) -> bytes:
            return payload[:1]

    page = read_archive(build_bundle(evil_record(record), Nobody()))["report.html"]
    assert (REPORT_VERSION, sha256(page).hexdigest()) == ("1", GOLDEN)


def test_a_large_run_draws_its_longest_steps(claim: Callable[..., Claim]) -> None:
    claims = [
        {
            "step": f"s{number}",
            "status": "done",
            "started_at": "2025-03-01T10:00:00Z",
            "finished_at": "2025-03-01T10:00:01Z",
            "duration_ms": number,
        }
        for number in range(250)
    ]
    drawn = draw_timeline(claims, str)
    assert drawn.count("<rect") == 200
    assert "50 shorter steps are not drawn" in drawn
    assert "s249:" in drawn
    assert "s49:" not in drawn
    assert draw_timeline([], str) == ""


@pytest.mark.parametrize("moment", ["2025-03-01T10:00:00Z", "2025-03-01T10:00:00.123456Z"])
def test_a_step_of_no_length_is_drawn(moment: str) -> None:
    claim = {"step": "a", "status": "done", "started_at": moment, "finished_at": moment, "duration_ms": 0}
    assert 'width="1.0"' in draw_timeline([claim], str)


GOLDEN = "f5f1991baedff792d264ce492dc136cbf6162c191f1f327ad0c2f8aea377fcd5"
