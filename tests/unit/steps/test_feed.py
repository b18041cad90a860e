from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.errors import StepError
from maestro_dagster.steps.feed_parse import FeedParse
from maestro_dagster.steps.feed_text import _without_bomb, parse_feed

RSS = """<?xml version="1.0"?><rss version="2.0"><channel><title>News</title><link>https://example.com/</link>
<item><title>A &lt;b&gt;bold&lt;/b&gt; step</title><link>https://example.com/1</link><guid>one</guid>
<pubDate>Mon, 06 Oct 2025 08:00:00 +0200</pubDate>
<description>&lt;p&gt;First.&lt;/p&gt;&lt;p&gt;Second&amp;nbsp;part.&lt;/p&gt;&lt;script&gt;evil()&lt;/script&gt;</description></item>
<item><description>only text</description></item></channel></rss>"""

ATOM = """<feed xmlns="http://www.w3.org/2005/Atom"><title>T</title><link href="https://a.example/"/>
<entry><id>urn:1</id><title type="html">x &amp;amp; y</title><updated>2025-01-02T03:04:05Z</updated>
<content type="html">
&lt;ul&gt;&lt;li&gt;one&lt;/li&gt;&lt;li&gt;two&lt;/li&gt;&lt;/ul&gt;</content></entry></feed>"""

JSON_FEED = {
    "version": "https://jsonfeed.org/version/1.1",
    "title": "J",
    "home_page_url": "https://j.example/",
    "items": [
        {
            "id": 7,
            "url": "https://j.example/7",
            "title": "Seven",
            "content_html": "<p>a<br>b</p>",
            "date_published": "2025-06-01T12:00:00+02:00",
        },
        {"id": "8", "content_text": "<kept as it is>"},
        "no item",
    ],
}


async def parse(bench: Any, data: bytes | str, media_type: str = "application/xml", **config: Any) -> Any:
    result = await bench.run(FeedParse(), config, feed=bench.put(data, media_type))
    return json.loads(result.data), result


async def test_rss_becomes_plain_entries(bench: Any) -> None:
    feed, result = await parse(bench, RSS)
    assert feed["title"] == "News"
    assert feed["link"] == "https://example.com/"
    assert feed["entries"][0] == {
        "id": "one",
        "title": "A bold step",
        "link": "https://example.com/1",
        "published": "2025-10-06T06:00:00Z",
        "summary": "First.\nSecond part.",
        "content": None,
    }
    assert feed["entries"][1]["published"] is None
    assert result.facts == {"entries": 2, "form": "rss20", "ill_formed": False}
    assert result.warnings == ()


async def test_atom_has_content_and_the_time_of_its_update(bench: Any) -> None:
    feed, _ = await parse(bench, ATOM)
    entry = feed["entries"][0]
    assert (entry["title"], entry["content"]) == ("x & y", "one\ntwo")
    assert entry["published"] == "2025-01-02T03:04:05Z"


async def test_json_feed_has_the_same_form(bench: Any) -> None:
    feed, result = await parse(bench, json.dumps(JSON_FEED), "application/feed+json")
    assert feed["link"] == "https://j.example/"
    assert feed["entries"][0] == {
        "id": "7",
        "title": "Seven",
        "link": "https://j.example/7",
        "published": "2025-06-01T10:00:00Z",
        "summary": None,
        "content": "a\nb",
    }
    assert feed["entries"][1]["content"] == "<kept as it is>"
    assert len(feed["entries"]) == 2
    assert result.facts["form"] == "json"


@pytest.mark.parametrize(
    "data",
    ["", "not a feed", "<html><body>404</body></html>", "{", '{"version": 1}', b"\x80\x81\xff", "<rss>"],
)
async def test_what_is_no_feed_gives_a_warning_and_no_entries(bench: Any, data: bytes | str) -> None:
    feed, result = await parse(bench, data)
    assert feed["entries"] == []
    assert result.facts["ill_formed"]
    assert len(result.warnings) == 1
    with pytest.raises(StepError) as caught:
        await parse(bench, data, min_entries=1)
    assert caught.value.error_code == "feed-too-short"


async def test_an_ill_formed_feed_gives_what_can_be_had(bench: Any) -> None:
    feed, result = await parse(bench, RSS.replace("</channel></rss>", "<item><title>cut & off"))
    assert [entry["title"] for entry in feed["entries"]][:2] == ["A bold step", None]
    assert "ill-formed" in result.warnings[0]


async def test_the_charset_of_http_wins(bench: Any) -> None:
    data = "<rss version='2.0'><channel><title>Grüße</title></channel></rss>".encode("iso-8859-1")
    feed, _ = await parse(bench, data, "application/rss+xml; charset=iso-8859-1")
    assert feed["title"] == "Grüße"


async def test_data_that_looks_like_a_file_name_or_an_address_is_only_data(bench: Any) -> None:
    for data in ("/etc/hostname", "http://127.0.0.1:9/feed", "pyproject.toml"):
        feed, _ = await parse(bench, data)
        assert feed["entries"] == []
        assert feed["title"] is None


async def test_entries_and_texts_are_bounded(bench: Any) -> None:
    items = "".join(f"<item><title>{'x' * 50}</title></item>" for _ in range(30))
    feed, _ = await parse(bench, f"<rss><channel>{items}</channel></rss>", max_entries=3, max_text=10)
    assert [entry["title"] for entry in feed["entries"]] == ["x" * 10] * 3


def _bomb(levels: int, width: int) -> str:
    entities = '<!ENTITY a0 "lol lol lol lol ">' + "".join(
        f'<!ENTITY a{level} "{f"&a{level - 1};" * width}">' for level in range(1, levels)
    )
    return _feed(entities, f"&a{levels - 1};")


def _feed(entities: str, title: str) -> str:
    return f"<!DOCTYPE rss [{entities}]><rss version='2.0'><channel><title>{title}</title></channel></rss>"


@pytest.mark.parametrize(
    "data",
    [
        _bomb(30, 10),
        _bomb(200, 2),
        _feed(f'<!ENTITY a "{"x" * 50_000}">', "&a;" * 50_000),
        _bomb(30, 10).encode("utf-16"),
        _feed('<!ENTITY x SYSTEM "file:///etc/hostname">', "&x;"),
    ],
)
async def test_entities_cannot_swell_or_fetch(bench: Any, data: bytes | str) -> None:
    started = time.monotonic()
    feed, _ = await parse(bench, data)
    assert time.monotonic() - started < 5
    assert len(feed["title"] or "") < 20_001
    assert socket.gethostname() not in (feed["title"] or "")


async def test_too_large_a_feed_is_refused_before_it_is_parsed(bench: Any) -> None:
    with pytest.raises(StepError) as caught:
        await parse(bench, b" " * (16 * 1024**2 + 1))
    assert caught.value.error_code == "feed-too-large"


def test_entities_are_dropped_before_the_parser_sees_them() -> None:
    for bomb in (_bomb(30, 10).encode(), _feed(f'<!ENTITY a "{"x" * 50_000}">', "&a;" * 50_000).encode()):
        changed, why = _without_bomb(bomb)
        assert b"<!ENTITY" not in changed
        assert why
    harmless = _feed('<!ENTITY me "Ada">', "&me;").encode()
    assert _without_bomb(harmless) == (harmless, None)


def test_the_parser_opens_no_file(tmp_path: Path) -> None:
    file = tmp_path / "feed.xml"
    file.write_text(RSS)
    options = {"media_type": "text/plain", "max_entries": 10, "max_text": 100}
    read = json.loads(parse_feed(options, str(file).encode()))
    assert read["feed"]["title"] is None
    assert read["feed"]["entries"] == []
