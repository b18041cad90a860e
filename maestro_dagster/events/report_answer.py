"""What a forge's answer means: taken, wait, come with another token, or no."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from maestro_dagster.errors import EventError
from maestro_dagster.events.report_call import Call, Reply

_LONGEST_PAUSE = 2 * 3600.0  # seconds that a forge may ask for; GitHub's windows last one hour
_LONGEST_MESSAGE = 200
_LIMITED, _FORBIDDEN, _UNAUTHORISED, _SIGN_IN = 429, 403, 401, 203
_SERVER_ERROR = 500
_EARLY = (408, 425)
_MOVED = range(300, 400)


def judge_answer(call: Call, reply: Reply, now: float, hidden: Iterable[str]) -> None:
    """Returns when the call was taken. Raises EventError (`report-unauthorised`, `report-limited`,
    `report-unavailable`, `report-moved`, `report-refused`); `hidden` are texts that no error repeats.
    """
    status = reply.status
    if reply.ok and status != _SIGN_IN:
        return
    said = _message(reply.data, hidden)
    told = f"{status}{f': {said}' if said else ''}"
    if status == _LIMITED or (status == _FORBIDDEN and _is_limit(reply)):
        raise _later("report-limited", f"the forge wants fewer calls ({told})", reply, now)
    if status >= _SERVER_ERROR or status in _EARLY:
        raise _later("report-unavailable", f"the forge has a bad moment ({told})", reply, now)
    if status in {_UNAUTHORISED, _FORBIDDEN, _SIGN_IN}:
        raise EventError(
            f"the forge does not let the token {call.method} ({told})",
            remedy="store a token that may write statuses and comments; what waits is sent then",
            code="report-unauthorised",
        )
    if status in _MOVED:
        raise EventError(
            f"the forge's interface has moved ({told})",
            remedy="correct `api` in resources/forges.yaml; redirections are not followed with a token",
            code="report-moved",
        )
    raise EventError(
        f"the forge refuses the report ({told})",
        remedy="see that the repository, the commit and the rights of the token are those of the forge",
        code="report-refused",
    )


def lost_answer(fact: str) -> EventError:
    """No answer came: it may have arrived."""
    error = EventError(fact, remedy="it is tried again by itself", code="report-unavailable")
    error.retryable = True
    return error


def read_pause(reply: Reply, now: float) -> float:
    """Seconds that a taken call asks to wait before the next one (Azure DevOps, GitHub); 0 for none."""
    if not reply.ok:
        return 0.0
    if "retry-after" in reply.headers:
        return _retry_after(reply.headers["retry-after"], now)
    return _until_reset(reply, now)


def _later(code: str, fact: str, reply: Reply, now: float) -> EventError:
    error = EventError(fact, remedy="it is tried again by itself", code=code)
    error.retryable = True
    if "retry-after" in reply.headers:
        error.retry_after = _retry_after(reply.headers["retry-after"], now)
    else:
        error.retry_after = _until_reset(reply, now) or (60.0 if code == "report-limited" else 0.0)
    return error


def _is_limit(reply: Reply) -> bool:
    """GitHub says 403 for a limit as well; it means one when the window is used up, or when it says so."""
    said = _message(reply.data, ()).lower()
    used_up = reply.headers.get("x-ratelimit-remaining", "").strip() == "0"
    return used_up or "retry-after" in reply.headers or "rate limit" in said


def _until_reset(reply: Reply, now: float) -> float:
    """GitHub's `x-ratelimit-reset` and GitLab's `ratelimit-reset` are seconds since the epoch."""
    for prefix in ("x-ratelimit", "ratelimit"):
        if reply.headers.get(f"{prefix}-remaining", "").strip() == "0":
            reset = reply.headers.get(f"{prefix}-reset", "")
            if reset.isascii() and reset.isdigit():
                return _bounded(float(reset[:12]) - now)
    return 0.0


def _retry_after(text: str, now: float) -> float:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3): a number or a date; 0 for anything else."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return _bounded(float(text[:9]))
    try:
        return _bounded((parsedate_to_datetime(text) - datetime.fromtimestamp(now, UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), _LONGEST_PAUSE)


def _message(data: Any, hidden: Iterable[str]) -> str:
    """What the forge says of it, on one line, without the token, should it repeat it."""
    found = data.get("message") or data.get("error") or data.get("errors") if isinstance(data, dict) else None
    if isinstance(found, dict):
        found = found.get("message")
    if isinstance(found, list):
        found = next((row.get("message") if isinstance(row, dict) else row for row in found), None)
    if not isinstance(found, str):
        return ""
    for text in hidden:
        for secret in _spellings(text):
            found = found.replace(secret, "***")
    plain = "".join(letter if letter.isprintable() else " " for letter in found)
    return " ".join(plain.split())[:_LONGEST_MESSAGE]


def _spellings(header: str) -> list[str]:
    """A header's value, the token in it, and what base64 in it stands for. The longest first."""
    scheme, _, token = header.rpartition(" ")
    found = {header, token}
    if scheme.lower() == "basic":
        try:
            plain = base64.b64decode(token, validate=True).decode()
        except ValueError:
            plain = ""
        found |= {plain, plain.partition(":")[2]}
    return sorted((each for each in found if len(each) >= 8), key=len, reverse=True)  # noqa: PLR2004 - no token is shorter
