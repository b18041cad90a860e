"""Verdicts by the packs of a folder, with regorus in a child process. Anything unclear denies.

The folder is read anew for each decision, so a changed pack counts from the next decision on; the
child keeps what it has compiled by digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maestro_dagster.errors import ManifestError, PolicyError
from maestro_dagster.manifest.canonical import canonical_json, digest_bytes
from maestro_dagster.policy.child import PolicyCrashError, PolicyTimeoutError, RegoChild
from maestro_dagster.policy.interface import Decision, PolicyEngine, Verdict
from maestro_dagster.policy.pack import Pack, read_packs
from maestro_dagster.policy.verdict import RULES, deny_all, deny_pack, judge_pack

_REMEDIES = {
    "language": (
        "pack-language-refused",
        "rewrite the pack without it, or give it to a real OPA: policy_engine = 'opa' and opa_command",
    ),
    "load": (
        "pack-load-failed",
        "mend the pack (`opa fmt --v0-v1` converts old syntax); `maestro policy test`",
    ),
    "evaluate": (
        "pack-evaluation-failed",
        "mend the rule so that it holds for every flow; `maestro policy test`",
    ),
    "unloaded": ("pack-load-failed", "try again"),
}


def open_policy_engine(folder: Path, kind: str = "regorus", command: str = "") -> PolicyEngine:
    """An engine over the packs of `folder`. Starts nothing yet; never raises for a missing folder or binary.

    Args:
        folder: `policies/` of the project.
        kind: "regorus" (embedded) or "opa".
        command: path or name of the `opa` binary, for kind "opa".

    """
    if kind == "regorus":
        return EmbeddedEngine(folder)
    if kind == "opa":
        from maestro_dagster.policy.opa import OpaEngine

        return OpaEngine(folder, command or "opa")
    raise PolicyError(
        f"there is no policy engine {kind!r}",
        place="[tool.maestro] policy_engine",
        remedy="use 'regorus' (embedded) or 'opa'",
        code="policy-engine-unknown",
    )


class EmbeddedEngine:
    """regorus behind its allow-list. `seconds` is the limit of one pack's load or evaluation."""

    def __init__(self, folder: Path, *, seconds: float = 5.0, memory_bytes: int = 1 << 30) -> None:
        self.folder = folder
        self.child = RegoChild(seconds=seconds, memory_bytes=memory_bytes)
        self._loaded: set[str] = set()

    def evaluate(self, document: Mapping[str, Any]) -> Decision:
        return decide(self.folder, document, self._ask, lambda: self.child.version)

    def close(self) -> None:
        self.child.close()

    def _ask(self, pack: Pack, text: str) -> Verdict:
        request = {
            "op": "evaluate",
            "key": pack.digest,
            "input": text,
            "rules": [f"{pack.package}.{rule}" for rule in RULES],
        }
        try:
            answer = self.child.ask(request)
            if answer.get("error", {}).get("kind") == "unloaded":
                answer = self._load(pack)
                if "error" not in answer:
                    answer = self.child.ask(request)
        except PolicyTimeoutError as error:
            return deny_pack(pack, "pack-timeout", f"{error.fact} ({self.child.seconds:g} s)", error.remedy)
        except PolicyCrashError as error:
            return deny_pack(pack, "pack-crashed", error.fact, error.remedy)
        if "error" in answer:
            rule, remedy = _REMEDIES[answer["error"]["kind"]]
            return deny_pack(pack, rule, answer["error"]["message"], remedy)
        return judge_pack(pack, answer["values"])

    def _load(self, pack: Pack) -> dict[str, Any]:
        answer = self.child.ask(
            {"op": "load", "key": pack.digest, "modules": pack.modules, "data": pack.data, "checked": True}
        )
        stray = [name for name in answer.get("packages", ()) if not is_inside(name, pack)]
        if stray:
            message = f"the package {stray[0]} does not belong to the pack {pack.name}"
            return {"error": {"kind": "load", "message": message}}
        return answer


def is_inside(package: str, pack: Pack) -> bool:
    own = f"maestro.{pack.name}"
    return package == own or package.startswith(f"{own}.")


def decide(folder: Path, document: Mapping[str, Any], ask: Any, version: Any) -> Decision:
    """The frame of a decision, the same for both engines: read, ask each pack, fail closed."""
    digest = ""
    try:
        data = canonical_json(document)
        digest, text = digest_bytes(data), data.decode()
        packs = read_packs(folder)
        verdicts = [_ask_safely(pack, text, ask) for pack in packs]
    except ManifestError as error:
        verdicts = [deny_all("policy-input-invalid", error.fact, error.remedy)]
    except PolicyError as error:
        verdicts = [deny_all(error.error_code, str(error), error.remedy)]
    else:
        if not packs:
            verdicts = [
                deny_all(
                    "no-packs",
                    f"there is no policy pack in {folder}",
                    "add one: `maestro init` brings licence, pii, residency and budget",
                )
            ]
    return Decision(
        allow=bool(verdicts) and all(verdict.allow for verdict in verdicts),
        verdicts=tuple(verdicts),
        engine=version(),
        input_digest=digest,
    )


def _ask_safely(pack: Pack, text: str, ask: Any) -> Verdict:
    if pack.problem is not None:
        return deny_pack(pack, "pack-load-failed", str(pack.problem), pack.problem.remedy)
    try:
        verdict: Verdict = ask(pack, text)
    except Exception as error:  # noqa: BLE001 - a fault of ours in judging a pack is a denial too
        return deny_pack(
            pack, "pack-evaluation-failed", f"{type(error).__name__}: {error}", "report this pack"
        )
    return verdict
