"""Version 1 of report.html. Frozen once released: old bundles are rendered again with it.

No script, no reference to anything outside the file, every value escaped, one style sheet that the
page's own content security policy names by its hash.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from html import escape
from typing import Any, Final

from maestro_dagster.evidence.timeline import draw_timeline

_STYLE: Final = (
    ":root{color-scheme:light dark;--b:#8886;--m:#767676;--done:#1a7f37;--failed:#cf222e;--other:#9a6700}"
    "@media(prefers-color-scheme:dark){:root{--m:#999;--done:#3fb950;--failed:#f85149;--other:#d29922}}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.3rem 0}"
    "table{border-collapse:collapse;width:100%;font-size:.87rem}"
    "th,td{text-align:left;vertical-align:top;padding:.25rem .8rem .25rem 0;border-top:1px solid var(--b);"
    "overflow-wrap:break-word}th{border:0;color:var(--m);font-weight:400}"
    "code{font:.8rem ui-monospace,monospace}.d{overflow-wrap:anywhere}.m{color:var(--m)}"
    ".done,.reused,.succeeded,.yes{color:var(--done)}"
    ".failed,.denied,.no{color:var(--failed)}.skipped,.cancelled{color:var(--other)}"
    "svg{width:100%;height:auto;font:11px system-ui,sans-serif;fill:currentColor}"
    "svg .done,svg .reused{fill:var(--done)}svg .failed{fill:var(--failed)}"
    "svg .skipped,svg .cancelled{fill:var(--other)}"
    "@media print{body{max-width:none;margin:0;font-size:11px}tr,svg{break-inside:avoid}}"
)
_POLICY: Final = (
    "default-src 'none';base-uri 'none';form-action 'none';style-src 'sha256-"
    + base64.b64encode(sha256(_STYLE.encode()).digest()).decode()
    + "'"
)
_TEXT_LIMIT: Final = 600
# Control and bidirectional characters can make a page read otherwise than it is written.
_VISIBLE: Final = {
    code: f"\\u{{{code:x}}}"
    for code in (
        *range(9), 11, 12, *range(14, 32), *range(0x7F, 0xA0), 0x200E, 0x200F, 0x061C, 0xFEFF,
        *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000),
    )
}  # fmt: skip


def render_v1(
    description: Mapping[str, Any],
    flow: Mapping[str, Any],
    claims: Sequence[Mapping[str, Any]],
    *,
    decisions: Mapping[str, Any],
    costs: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]],
    key: str,
) -> bytes:
    name = f"{flow['name']} {flow['version']}"
    body = (
        _head(description, flow, costs),
        _warnings(description),
        _ran(claims),
        _allowed(decisions, description),
        _cost(costs),
        _made(claims),
        _proof(description, files, key),
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(name)}: evidence</title><style>{_STYLE}</style></head><body>"
        f"{''.join(body)}</body></html>\n"
    )
    return page.encode()


def _text(value: Any) -> str:
    """Any JSON value as safe text; long ones are cut and say so."""
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        value = "" if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(value) > _TEXT_LIMIT:
        value = f"{value[:_TEXT_LIMIT]}... ({len(value)} characters)"
    if not (value.isascii() and value.isprintable()):
        value = value.translate(_VISIBLE)
    return escape(value)


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    body = "".join(rows)
    if not body:
        return '<p class="m">None.</p>'
    head = "".join(f"<th>{item}</th>" for item in heads)
    return f"<table><tr>{head}</tr>{body}</table>"


def _row(*cells: str) -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _code(value: Any) -> str:
    return f"<code>{_text(value)}</code>"


def _digest(value: Any) -> str:
    return f'<code class="d">{_text(value)}</code>'


def _mark(word: Any) -> str:
    text = _text(word)
    return f'<span class="{text}">{text}</span>'


def _usd(value: Any) -> str:
    return "unknown" if value is None else f"{_text(value)}&nbsp;USD"


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}&nbsp;s"


def _head(description: Mapping[str, Any], flow: Mapping[str, Any], costs: Mapping[str, Any]) -> str:
    run = description["run"]
    return (
        f"<h1>{_text(flow['name'])} {_text(flow['version'])}: {_mark(run['status'])}</h1>"
        f"<p>{_text(flow.get('description', ''))}</p>"
        f"<p>Run {_code(run['id'])}, {_text(run['startedAt'])} to {_text(run['finishedAt'])}, "
        f"cost {_usd(costs.get('total_usd'))}.</p>"
        '<p class="m">This page proves nothing by itself. Check the bundle that it came in: '
        "<code>maestro verify evidence.zip --key KEY.pem</code></p>"
    )


def _warnings(description: Mapping[str, Any]) -> str:
    items = "".join(f"<li>{_text(item)}</li>" for item in description["warnings"])
    return f"<h2>Warnings</h2><ul>{items}</ul>" if items else ""


def _ran(claims: Sequence[Mapping[str, Any]]) -> str:
    rows = (
        _row(
            _code(claim["step"]),
            _text(claim["uses"]),
            _mark(claim["status"]),
            _text(claim["attempts"]),
            _seconds(claim["duration_ms"]),
            _usd(claim["cost_usd"]),
            _notes(claim),
        )
        for claim in claims
    )
    heads = ("Step", "Kind", "Status", "Attempts", "Time", "Cost", "Notes")
    return f"<h2>What ran</h2>{draw_timeline(claims, _text)}{_table(heads, rows)}"


def _notes(claim: Mapping[str, Any]) -> str:
    notes = []
    if (error := claim.get("error")) is not None:
        notes.append(f"{_code(error.get('code', ''))} {_text(error.get('fact', ''))}")
    if claim.get("reason"):
        notes.append(_text(claim["reason"]))
    if claim.get("reused_from"):
        notes.append(f"taken over from {_code(claim['reused_from'])}")
    if (model := claim.get("model")) is not None:
        kind = "" if model.get("generative", True) else " (extractive, not generative)"
        notes.append(f"model {_text(model.get('provider', ''))}/{_text(model.get('model', ''))}{kind}")
    if claim.get("isolation") == "none":
        notes.append("ran without isolation")
    if claim.get("iterations"):
        notes.append(f"{len(claim['iterations'])} iterations")
    return "; ".join(notes)


def _allowed(decisions: Mapping[str, Any], description: Mapping[str, Any]) -> str:
    allowed = decisions.get("allow") is True
    verdict = '<span class="yes">allowed</span>' if allowed else '<span class="no">denied</span>'
    engine = decisions.get("engine") or "no engine"
    packs = _records(decisions.get("verdicts"))
    rows = (
        _row(
            _text(pack.get("pack")),
            _mark("yes" if pack.get("allow") is True else "no"),
            "<br>".join(_violation(item) for item in _items(pack.get("violations")))
            + "".join(f"<br>warning: {_text(item)}" for item in _items(pack.get("warnings"))),
            _digest(pack.get("digest")),
        )
        for pack in packs
    )
    context = (_row(_text(name), _text(value)) for name, value in _flatten(description["context"]))
    return (
        f"<h2>Who allowed it</h2><p>Admission: {verdict}, by {_text(engine)}.</p>"
        f"{_table(('Pack', 'Allows', 'Violations', 'Digest'), rows)}"
        f"<h2>Where it came from</h2>{_table(('What', 'Value'), context)}"
    )


def _flatten(context: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in sorted(context.items()):
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", value[inner]) for inner in sorted(value))
        else:
            yield name, value


def _violation(item: Any) -> str:
    if not isinstance(item, dict):
        return _text(item)
    step = f" at step {_code(item['step'])}" if item.get("step") else ""
    return f"{_code(item.get('rule'))}{step}: {_text(item.get('message'))}; {_text(item.get('remedy'))}"


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _records(value: Any) -> list[dict[str, Any]]:
    return [item for item in _items(value) if isinstance(item, dict)]


def _cost(costs: Mapping[str, Any]) -> str:
    rows = []
    for group, name in (("by_kind", "kind"), ("by_model", "model")):
        for line in _records(costs.get(group)):
            counts = (_text(line.get(word, 0)) for word in ("events", "tokens_in", "tokens_out"))
            rows.append(_row(_text(line.get(name)), *counts, _usd(line.get("total_usd"))))
    return (
        f"<h2>What it cost</h2><p>Total {_usd(costs.get('total_usd'))}, "
        f"of which known {_usd(costs.get('known_usd'))}.</p>"
        f"{_table(('Kind or model', 'Events', 'Tokens in', 'Tokens out', 'Cost'), rows)}"
    )


def _made(claims: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for claim in claims:
        output = claim.get("output")
        if output is None:
            continue
        files = output.get("files", ())
        rows.append(
            _row(
                _code(claim["step"]),
                _text(output["media_type"]) + (f", {len(files)} files" if files else ""),
                f"{_text(output['size'])} B",
                _digest(output["digest"]),
            )
        )
    return f"<h2>What it made</h2>{_table(('Step', 'Type', 'Size', 'Digest'), rows)}"


def _proof(description: Mapping[str, Any], files: Sequence[Mapping[str, Any]], key: str) -> str:
    rows = (_row(_text(item["name"]), f"{_text(item['size'])} B", _digest(item["digest"])) for item in files)
    claims = description["claims"]
    return (
        f"<h2>Proof</h2><p>Flow {_digest(description['flow']['digest'])}</p>"
        f"<p>{_text(claims['count'])} claims under the root {_digest(claims['root'])} (RFC 6962)</p>"
        f"<p>Signed with {_digest(key)}</p>{_table(('File', 'Size', 'Digest'), rows)}"
    )
