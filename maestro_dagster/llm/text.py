"""From what feeds and pages hold to plain sentences. Linear in the input, whatever is in it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

# Possessive quantifiers and run starts: no input makes these step back.
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*+)[^<>]*+>")
_HIDDEN = frozenset({"script", "style", "code", "pre", "svg", "noscript", "template", "iframe", "table"})
_INLINE = frozenset(
    {"a", "abbr", "b", "cite", "em", "i", "mark", "q", "s", "small", "span", "strong", "sub", "sup", "u"}
)
_FENCE = re.compile(r"^(```|~~~)")
_IMAGE = re.compile(r"!\[[^\[\]]*\]\([^()\s]*\)")
_LINK = re.compile(r"\[([^\[\]]*)\]\([^()\s]*\)")
_URL = re.compile(r"\b(?:https?|ftp)://\S+|\bwww\.\S+")
_INLINE_CODE = re.compile(r"`[^`\n]*`")
_MARK = re.compile(r"^\s*(?:#{1,6}|[-*+>]|\d{1,3}[.)])\s+|[*_]{2,3}")
_SPACE = re.compile(r"\s+")
_END = re.compile(r"(?<![.!?\u2026])[.!?\u2026]++[\"'\u201d\u2019)\]]*+(?=\s)|[\u3002\uff01\uff1f]")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Za-z]|Dr|Mr|Mrs|Ms|Prof|St|Sr|Jr|No|Nos|vs|etc|cf|approx|Fig|Sec|Inc|Ltd|Co|Corp|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec|e\.g|i\.e|U\.S|U\.K|a\.m|p\.m)\.$"
)
_BOILERPLATE = re.compile(
    r"^(?:the post .* appeared first on|continue reading|read more|read the full|subscribe to|sign up for|"
    r"click here|share this|all rights reserved|copyright|©|advertisement)",
    re.IGNORECASE,
)


def strip_markup(text: str) -> str:
    """Plain text: no HTML, no code, no links, paragraphs on lines of their own."""
    text = html.unescape(_strip_tags(_strip_comments(text)))
    lines = []
    fenced = False
    for line in text.splitlines():
        if _FENCE.match(line.lstrip()):
            fenced = not fenced
            continue
        if fenced or line.startswith(("    ", "\t")) or line.count("|") > 2:  # noqa: PLR2004 - code, tables
            continue
        prose = _URL.sub(" ", _INLINE_CODE.sub(" ", _LINK.sub(r"\1", _IMAGE.sub(" ", line))))
        lines.append(_MARK.sub("", _SPACE.sub(" ", prose)).strip())
    return "\n".join(lines)


def _strip_comments(text: str) -> str:
    parts = text.split("<!--")
    return parts[0] + " ".join(part.partition("-->")[2] for part in parts[1:])


def _strip_tags(text: str) -> str:
    if "<" not in text:
        return text
    kept: list[str] = []
    position = 0
    hidden: str | None = None
    for match in _TAG.finditer(text):
        closing, name = match.group(1), match.group(2).lower()
        if hidden is None:
            kept.append(text[position : match.start()])
            kept.append("" if name in _INLINE else "\n")
            if not closing and name in _HIDDEN:
                hidden = name
        elif closing and name == hidden:
            hidden = None
        position = match.end()
    if hidden is None:
        kept.append(text[position:])
    return "".join(kept)


def split_sentences(text: str) -> Iterator[str]:
    """Whole sentences of plain text. A line without an end mark is a heading or a fragment: left out."""
    for line in text.splitlines():
        start = 0
        for match in _END.finditer(f"{line} "):
            end = match.end()
            if _ABBREVIATION.search(line[max(0, end - 12) : end]):
                continue
            rest = line[end : end + 8].lstrip()
            if rest and rest[0].islower():
                continue
            sentence = line[start:end].strip()
            start = end
            if sentence and not _BOILERPLATE.match(sentence):
                yield sentence


def count_words(text: str) -> int:
    """Words as people count them: what stands between blanks and has a letter or digit in it."""
    return sum(1 for word in text.split() if any(char.isalnum() for char in word))


def has_phrase(text: str, phrase: str) -> bool:
    """Whether the phrase stands in the text as whole words, whatever the case."""
    pattern = r"(?<!\w)" + r"\s+".join(re.escape(word) for word in phrase.split()) + r"(?!\w)"
    return re.search(pattern, text, re.IGNORECASE) is not None
