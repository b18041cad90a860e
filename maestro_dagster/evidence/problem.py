"""One thing that is wrong with a bundle."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """`code` is stable; `place` is a file of the bundle, with line or step; `fact` is one sentence."""

    code: str
    place: str
    fact: str

    def __str__(self) -> str:
        return f"{self.code} at {self.place}: {self.fact}" if self.place else f"{self.code}: {self.fact}"

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "place": self.place, "fact": self.fact}
