"""The parsing behind `feed/parse`; runs in a child process."""

from __future__ import annotations

import calendar
import io
import json
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

_HIDDEN = frozenset({"script", "style", "template", "noscript", "iframe", "object"})
_BLOCKS = frozenset(
    {
        "p",
        "div",
        "br",
        "li",
        "ul",
        "ol",
        "tr",
        "table",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "blockquote",
        "pre",
        "section",
        "article",
        "hr",
        "dd",
        "dt",
    }
)
# What references to the entities of a document type may add to a document.
_MAX_EXPANSION = 1024**2


def parse_feed(options: Mapping[str, Any], data: bytes) -> bytes:
    """Gives `{"feed", "form", "fault"}` as JSON; `fault` says what was ill-formed, else it is null."""
    form, fault, feed = _read_json_feed(data) or _read_xml_feed(data, options["media_type"])
    limit = options["max_text"]
    entries = [_shorten(entry, limit) for entry in feed["entries"][: options["max_entries"]]]
    feed = {**_shorten(feed, limit), "entries": entries}
    return json.dumps({"feed": feed, "form": form, "fault": fault}).encode()


def _shorten(record: Mapping[str, Any], limit: int) -> dict[str, Any]:
    return {key: value[:limit] if isinstance(value, str) else value for key, value in record.items()}


def _read_xml_feed(data: bytes, media_type: str) -> tuple[str, str | None, dict[str, Any]]:
    import feedparser

    data, bomb = _without_bomb(data)
    # A charset from HTTP wins over the XML declaration (RFC 7303); a bare text/xml would mean ASCII, which
    # hardly any feed is, so a media type without charset is not passed on.
    headers = {"content-type": media_type} if "charset=" in media_type.lower() else {}
    # A stream: bytes or text would be tried as a file name or an address first.
    parsed = feedparser.parse(io.BytesIO(data), response_headers=headers)
    fault = bomb
    if not data.strip():
        fault = "the feed is empty"
    elif parsed.get("bozo"):
        fault = " ".join(str(parsed.get("bozo_exception", "not well-formed")).split())[:300]
    elif not (parsed.get("version") or parsed.entries or "link" in parsed.feed) or _HTML.match(data):
        fault = "it is no feed that we know"
    feed = {
        "title": _text(parsed.feed, "title"),
        "link": parsed.feed.get("link"),
        "entries": [_entry(entry) for entry in parsed.entries],
    }
    return str(parsed.get("version") or ""), fault, feed


def _entry(entry: Any) -> dict[str, Any]:
    contents = [part for part in entry.get("content", []) if part.get("value")]
    content = _plain(contents[0].value, contents[0].get("type", "")) if contents else None
    return {
        "id": entry.get("id"),
        "title": _text(entry, "title"),
        "link": entry.get("link"),
        "published": _time(entry.get("published_parsed") or entry.get("updated_parsed")),
        "summary": _text(entry, "summary"),
        "content": content,
    }


def _text(record: Any, key: str) -> str | None:
    value = record.get(key)
    if not isinstance(value, str):
        return None
    return _plain(value, (record.get(f"{key}_detail") or {}).get("type") or "")


def _plain(value: str, media_type: str) -> str:
    if media_type == "text/plain" and "<" not in value:
        return value.strip()
    reader = _TextReader()
    reader.feed(value)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.parts).splitlines())
    return "\n".join(line for line in lines if line)


class _TextReader(HTMLParser):
    """Keeps the text of HTML that is shown, with a line break between blocks."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, _attrs: Any) -> None:
        self._hidden += tag in _HIDDEN
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN and self._hidden:
            self._hidden -= 1
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def _time(moment: Any) -> str | None:
    if not moment:
        return None
    try:
        found = datetime.fromtimestamp(calendar.timegm(moment), UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return found.strftime("%Y-%m-%dT%H:%M:%SZ") if found.year >= 1000 else None  # noqa: PLR2004


_HTML = re.compile(rb"\s*(<!doctype\s+html|<html)", re.IGNORECASE)
# Possessive and bounded: on hostile data a pattern that backtracks takes time in its square.
_ENTITY = re.compile(
    rb"<!ENTITY\s++(?:%\s++)?([^\s>\"']{1,200}+)\s++[^>\"']{0,200}+(\"[^\"]*+\"|'[^']*+')", re.IGNORECASE
)
_REFERENCE = re.compile(rb"&([^\s&;]{1,200}+);")


def _without_bomb(data: bytes) -> tuple[bytes, str | None]:
    """Without its entity declarations, when references to them would swell the document."""
    plain = data.replace(b"\0", b"")  # so that UTF-16 and UTF-32 look like ASCII here
    declared = dict(_ENTITY.findall(plain))
    used = Counter(_REFERENCE.findall(plain))
    size = sum(len(value) * used[name] for name, value in declared.items())
    nested = any(name in declared for value in declared.values() for name in _REFERENCE.findall(value))
    if size <= _MAX_EXPANSION and not nested:
        return data, None
    return _ENTITY.sub(b"<!x", plain), "its entities would swell it; they were dropped"


def _read_json_feed(data: bytes) -> tuple[str, str | None, dict[str, Any]] | None:
    """JSON Feed 1 and 1.1 (jsonfeed.org), or None: no JSON object."""
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return None
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        return "json", f"not JSON: {error}", {"title": None, "link": None, "entries": []}
    version = document.get("version")
    fault = None if "jsonfeed.org/version/" in str(version) else "it does not say that it is a JSON Feed"
    items = document.get("items")
    if not isinstance(items, list):
        items, fault = [], "it has no items"
    feed = {
        "title": _string(document, "title"),
        "link": _string(document, "home_page_url"),
        "entries": [_json_entry(item) for item in items if isinstance(item, dict)],
    }
    return "json", fault, feed


def _json_entry(item: dict[str, Any]) -> dict[str, Any]:
    html, text = _string(item, "content_html"), _string(item, "content_text")
    return {
        "id": _string(item, "id"),
        "title": _string(item, "title"),
        "link": _string(item, "url") or _string(item, "external_url"),
        "published": _iso_time(_string(item, "date_published") or _string(item, "date_modified")),
        "summary": _string(item, "summary"),
        "content": text if text is not None else (_plain(html, "text/html") if html is not None else None),
    }


def _string(record: dict[str, Any], key: str) -> str | None:
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and key == "id":
        return str(value)
    return value if isinstance(value, str) else None


def _iso_time(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    try:
        return found.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        return None
