"""What the loop says, as text for people or as JSON lines that name the run and its trace.

{"ts": 1767225600.123, "level": "info", "service": "maestro", "message": "...", "run_id": "r...",
"trace_id": "0af7..."}
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

from maestro_dagster.telemetry.name import SERVICE
from maestro_dagster.telemetry.redaction import Redactor
from maestro_dagster.telemetry.span import trace_id_for

_RUN_ID = re.compile(r"\br[a-z2-7]{25}\b")  # as `run_id_for` makes them


def make_voice(form: str, write: Callable[[str], object], redactor: Redactor) -> Callable[[str], None]:
    """A function that says one thing a call. `form` is `text` or `json`; `write` gets whole lines."""

    def say(message: str) -> None:
        now, plain = time.time(), redactor.hide_all(message)
        if form != "json":
            write(f"{time.strftime('%H:%M:%S', time.localtime(now))} {plain}")
            return
        line = {"ts": round(now, 3), "level": "info", "service": SERVICE, "message": plain}
        if (found := _RUN_ID.search(plain)) is not None:
            line |= {"run_id": found[0], "trace_id": trace_id_for(found[0])}
        write(json.dumps(line, ensure_ascii=False))

    return say
