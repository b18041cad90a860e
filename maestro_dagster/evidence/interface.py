"""What the engine hands to the evidence room, and what it gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

ClaimStatus = Literal["done", "failed", "skipped", "cancelled", "reused"]


@dataclass(frozen=True, slots=True)
class InputRef:
    """One input of a step: `source` is `step:<id>`, `asset:<key>` or `run:<id>/<step>`."""

    source: str
    digest: str
    media_type: str


@dataclass(frozen=True, slots=True)
class OutputRef:
    digest: str
    media_type: str
    size: int
    files: tuple[tuple[str, str], ...] = ()  # (path, digest) of a tree, sorted by path


@dataclass(frozen=True, slots=True)
class Claim:
    """What one step did. Times are RFC 3339 UTC with milliseconds; money is decimal USD as a string."""

    run_id: str
    flow: str
    flow_digest: str
    step: str
    uses: str
    status: ClaimStatus
    attempts: int
    started_at: str | None
    finished_at: str
    duration_ms: int
    config_digest: str
    inputs: tuple[InputRef, ...] = ()
    output: OutputRef | None = None
    cost_usd: str | None = "0"  # None: unknown price
    isolation: str | None = None
    egress: tuple[str, ...] = ()
    reused_from: str | None = None
    error: Mapping[str, str] | None = None
    reason: str | None = None  # why skipped or cancelled
    model: Mapping[str, Any] | None = None  # provider, model, tokens_in, tokens_out, latency_ms, generative
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the kind found out, small JSON
    iterations: tuple[
        Mapping[str, Any], ...
    ] = ()  # of control/map: index, input digest, output digest, status


class Signer(Protocol):
    """Signs with the project's key. The key itself never leaves the implementation."""

    @property
    def algorithm(self) -> str:
        """`ed25519` or `ecdsa-p256-sha256`."""

    @property
    def public_pem(self) -> bytes: ...

    @property
    def hint(self) -> str:
        """Base64 sha256 of the public key's DER, as in a Sigstore bundle's publicKey.hint."""

    def sign(self, payload: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class BuiltArtifact:
    """A file that deserves SLSA provenance: what was built, by which step, from what."""

    name: str
    digest: str
    step: str
    dependencies: tuple[
        tuple[str, str], ...
    ] = ()  # (uri, sha256 digest), e.g. the checkout's commit and tree


@dataclass(frozen=True, slots=True)
class RunRecord:
    """All that a bundle is made of. `claims` are canonical bytes in the flow's topological order."""

    run_id: str
    status: str
    started_at: str
    finished_at: str
    flow_json: bytes  # normal form, RFC 8785
    flow_digest: str
    claims: tuple[bytes, ...]
    decisions: Mapping[str, Any]
    sbom: bytes
    slos: Mapping[str, Any]
    cost_report: Mapping[str, Any]
    built: tuple[BuiltArtifact, ...] = ()
    context: Mapping[str, Any] = field(
        default_factory=dict
    )  # cause, actor, git, project digests, dagster runs
    warnings: tuple[str, ...] = ()
    trace: bytes | None = None  # OTLP in RFC 8785 JSON; None for runs of releases that kept none
