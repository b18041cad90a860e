"""The asset checks of a flow: what the packs said, whether the evidence holds, the vulnerability gate.

They show what the engine enforced; they enforce nothing themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from maestro_dagster.engine.interface import RunView, StepOutcome
from maestro_dagster.errors import MaestroError
from maestro_dagster.translate.event import Checked
from maestro_dagster.translate.plan import SCAN_KIND, FlowPlan, Op

POLICY = "policy_allows"
COMPLETE = "evidence_complete"
VERIFIED = "evidence_verified"
GATE = "vulnerability_gate"


def check_specs(plan: FlowPlan, op: Op) -> list[dg.AssetCheckSpec]:
    """The checks on what this op makes."""
    specs = [
        dg.AssetCheckSpec(GATE, asset=output.key, description="No finding at or above the step's limit.")
        for output in op.outputs
        if output.product.task is not None and output.product.task.uses.startswith(SCAN_KIND)
    ]
    if op.last:
        key = plan.evidence_key
        specs += [
            dg.AssetCheckSpec(POLICY, asset=key, description="Every policy pack allowed the run."),
            dg.AssetCheckSpec(COMPLETE, asset=key, description="Every step of the flow has a claim."),
            dg.AssetCheckSpec(
                VERIFIED, asset=key, description="Signature, digests and inclusion proofs hold, offline."
            ),
        ]
    return specs


def gate_checked(outcome: StepOutcome, key: dg.AssetKey) -> Checked | None:
    """The answer of a vulnerability scan; None when the scan did not get as far."""
    if not outcome.uses.startswith(SCAN_KIND) or outcome.status not in {"done", "reused", "failed"}:
        return None
    error = outcome.error or {}
    passed = outcome.status != "failed"
    metadata: dict[str, Any] = {"facts": dg.MetadataValue.json(dict(outcome.facts))} if outcome.facts else {}
    if error.get("remedy"):
        metadata["remedy"] = error["remedy"]
    return Checked(
        key,
        GATE,
        passed,
        "nothing at or above the limit" if passed else error.get("fact", "failed"),
        metadata,
    )


def policy_checked(view: RunView, key: dg.AssetKey) -> Checked:
    """The packs' verdict at admission."""
    decision = view.decision or {}
    verdicts = decision.get("verdicts", ())
    violations = [each for verdict in verdicts for each in verdict.get("violations", ())]
    allowed = bool(decision.get("allow"))
    packs = ", ".join(str(verdict.get("pack")) for verdict in verdicts) or "no pack"
    text = (
        f"allowed by {packs}" if allowed else "; ".join(_violation(each) for each in violations) or "denied"
    )
    return Checked(key, POLICY, allowed, text, {"verdicts": dg.MetadataValue.json(list(verdicts))})


def _violation(each: dict[str, Any]) -> str:
    place = f" at {each['step']}" if each.get("step") else ""
    return f"{each.get('rule')}{place}: {each.get('message')}"


def evidence_checked(view: RunView, key: dg.AssetKey, bundle: Path, public_pem: bytes) -> Iterator[Checked]:
    """Reads the bundle as a stranger would, with the project's public key."""
    from maestro_dagster.evidence.verify import verify_bundle

    try:
        report = verify_bundle(bundle, [public_pem])
        problems, claims = [str(problem) for problem in report.problems], report.claims
    except MaestroError as error:
        problems, claims = [str(error)], 0
    expected = len(view.steps)
    yield Checked(
        key, COMPLETE, claims == expected, f"{claims} claims for {expected} steps",
        {"claims": dg.MetadataValue.int(claims), "steps": dg.MetadataValue.int(expected)},
    )  # fmt: skip
    text = "; ".join(problems[:5]) or "signature, digests, inclusion proofs and links hold"
    yield Checked(key, VERIFIED, not problems, text, {"command": f"maestro verify {view.evidence}"})
