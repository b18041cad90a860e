"""A worker process of the crash tests: runs a run as far as it lives. Arguments: home, run id."""

from __future__ import annotations

import sys
from pathlib import Path

import support


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    engine = support.make_engine(Path(sys.argv[1]))
    run_id = sys.argv[2]
    say("up")
    for outcome in engine.stream_segment(run_id, support.all_steps(engine.flow(run_id))):
        say(f"{outcome.step} {outcome.status} {outcome.fresh}")
    engine.close(run_id)


if __name__ == "__main__":
    main()
