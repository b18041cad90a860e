"""Feeds that nobody of this project wrote: their titles and entries are what the reference reader found."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.steps.feed_text import parse_feed

OPTIONS = {"media_type": "application/xml", "max_entries": 1000, "max_text": 1_000_000}


def test_feeds_of_the_corpus(corpus: Path) -> None:
    index = corpus / "06-web" / "feeds.json"
    if not index.is_file():
        pytest.skip("this corpus has no feeds")
    cases = json.loads(index.read_text(encoding="utf-8"))["cases"]
    present = [case for case in cases if (index.parent / case["file"]).is_file()]
    assert present
    wrong = [case["file"] for case in present if not _agrees(case, index.parent)]
    assert wrong == []


def _agrees(case: dict[str, Any], folder: Path) -> bool:
    read = json.loads(parse_feed(OPTIONS, (folder / case["file"]).read_bytes()))
    feed, wanted = read["feed"], case["feedparser"]
    return (
        feed["title"] == _text(wanted["feed_title"])
        and len(feed["entries"]) == wanted["entries"]
        and [entry["title"] for entry in feed["entries"]]
        == [_text(title) for title in wanted["entry_titles"]]
        and [entry["link"] for entry in feed["entries"]] == wanted["entry_links"]
        and [entry["id"] for entry in feed["entries"]] == wanted["entry_ids"]
        and (read["fault"] is not None) == wanted["bozo"]
    )


def _text(markup: str | None) -> str | None:
    """The reference keeps markup in titles; ours are plain text."""
    if markup is None or "<" not in markup:
        return markup
    return html.unescape(re.sub(r"<[^>]*>", "", markup)).strip()
