"""The base score of a CVSS 3.0 or 3.1 vector (first.org/cvss/v3.1/specification-document, section 7.1)."""

from __future__ import annotations

from typing import Final

_WEIGHTS: Final[dict[str, dict[str, float]]] = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "C": {"H": 0.56, "L": 0.22, "N": 0.0},
    "I": {"H": 0.56, "L": 0.22, "N": 0.0},
    "A": {"H": 0.56, "L": 0.22, "N": 0.0},
}
_RIGHTS: Final[dict[str, dict[str, float]]] = {
    "U": {"N": 0.85, "L": 0.62, "H": 0.27},
    "C": {"N": 0.85, "L": 0.68, "H": 0.5},
}
LEVELS: Final = ("none", "low", "medium", "high", "critical")
_BOUNDS: Final = ((9.0, "critical"), (7.0, "high"), (4.0, "medium"), (0.1, "low"))


def score_vector(vector: str) -> float | None:
    """None for a vector of another version, or one that is not complete."""
    version, _, rest = vector.partition("/")
    if version not in {"CVSS:3.0", "CVSS:3.1"}:
        return None
    metrics = dict(part.split(":", 1) for part in rest.split("/") if ":" in part)
    try:
        scope = metrics["S"]
        rights = _RIGHTS[scope][metrics["PR"]]
        weight = {name: table[metrics[name]] for name, table in _WEIGHTS.items()}
    except KeyError:
        return None
    loss = 1 - (1 - weight["C"]) * (1 - weight["I"]) * (1 - weight["A"])
    changed = scope == "C"
    impact = 7.52 * (loss - 0.029) - 3.25 * (loss - 0.02) ** 15 if changed else 6.42 * loss
    if impact <= 0:
        return 0.0
    ease = 8.22 * weight["AV"] * weight["AC"] * rights * weight["UI"]
    return _round_up(min((1.08 if changed else 1.0) * (impact + ease), 10.0))


def name_level(score: float) -> str:
    """The qualitative scale of section 5."""
    return next((level for bound, level in _BOUNDS if score >= bound), "none")


def _round_up(value: float) -> float:
    """Appendix A: up to one decimal, without the noise of floating point."""
    scaled = round(value * 100_000)
    return scaled / 100_000 if scaled % 10_000 == 0 else (scaled // 10_000 + 1) / 10
