"""What the steps see of the cage: a command, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CagedCommand:
    """One foreign command. Only what is named here is visible to it.

    `read_only` and `writable` map a path inside the cage to a path outside. Times are seconds,
    sizes bytes. `egress` lists `host` or `host:port`; empty means no network at all.
    """

    argv: tuple[str, ...]
    cwd: str = "/scratch"
    env: Mapping[str, str] = field(default_factory=dict)
    read_only: Mapping[str, Path] = field(default_factory=dict)
    writable: Mapping[str, Path] = field(default_factory=dict)
    egress: tuple[str, ...] = ()
    time_limit: float = 600.0
    output_limit: int = 4 * 1024 * 1024
    memory_limit: int = 4 * 1024**3
    isolation: str = "namespaces"  # or "none": said by the flow, recorded in the claim
    allow_private: tuple[str, ...] = ()  # hosts or CIDRs that egress may reach although they are private
    process_limit: int = 512
    disk_limit: int = 4 * 1024**3  # of all writable folders together


@dataclass(frozen=True, slots=True)
class CagedResult:
    """`returncode` is negative for a signal. Output is cut at the limit and says so."""

    returncode: int
    stdout: bytes
    stderr: bytes
    truncated: bool
    timed_out: bool
    cpu_seconds: float
    max_rss_bytes: int
    wall_seconds: float
    isolation: str
    killed: str = ""  # "time", "memory", "disk" or "output": the limit that ended it
    network_in: int = 0
    network_out: int = 0
    refused_hosts: tuple[str, ...] = ()  # asked for, but not declared or not allowed


class Cage(Protocol):
    def refusal(self) -> str | None:
        """Why this kernel cannot build a cage, or None when it can. Cheap after the first call."""

    async def run(self, command: CagedCommand) -> CagedResult:
        """Runs the command and everything it started to the end; nothing survives it.

        Raises SandboxError (`sandbox-unavailable`, `sandbox-setup`). Cancelling kills the cage.
        """
