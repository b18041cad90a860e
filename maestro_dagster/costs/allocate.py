"""Shared cost: an invoice that nobody's usage stands for, divided by a stated key.

The parts of an amount always add up to it (`manifest.price.split_amount`, largest remainder). What the key
cannot divide, because nobody used anything, stays as a part of its own that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from maestro_dagster.errors import CostError
from maestro_dagster.manifest.price import split_amount

if TYPE_CHECKING:
    from maestro_dagster.costs.focus import Charge

Over = Literal["tenant", "project", "flow"]
Key = Literal["cost", "tokens", "cpu", "memory", "runs", "equal", "weights"]
OVER: Final[tuple[Over, ...]] = ("tenant", "project", "flow")
KEYS: Final[tuple[Key, ...]] = ("cost", "tokens", "cpu", "memory", "runs", "equal", "weights")
UNALLOCATED: Final = "(unallocated)"
# over -> key -> member -> how much of it the member used; a member is "tenant[/project[/flow]]".
UsageByKey = Mapping[str, Mapping[str, Mapping[str, int]]]


@dataclass(frozen=True, slots=True)
class SharedLine:
    """An amount for each month from `since` up to and including `until` (YYYY-MM; None: for ever).

    `nano` is negative for a credit. `weights` are those of the key `weights`, by member.
    """

    name: str
    nano: int
    since: str
    key: Key
    until: str | None = None
    over: Over = "tenant"
    weights: Mapping[str, int] | None = None
    description: str = ""

    def holds_in(self, month: str) -> bool:
        return self.since <= month and (self.until is None or month <= self.until)


@dataclass(frozen=True, slots=True)
class SharedRow:
    """A member's part of a line in a month. `weight` of `whole` is its part of the key; both 0 when nobody
    had any, and then the member is UNALLOCATED.
    """

    month: str
    line: str
    key: Key
    over: Over
    member: str
    weight: int
    whole: int
    nano: int
    description: str = ""

    @property
    def allocated(self) -> bool:
        return self.member != UNALLOCATED

    @property
    def names(self) -> tuple[str, str, str]:
        """(tenant, project, flow), empty where the line is not divided so finely."""
        if not self.allocated:
            return UNALLOCATED, "", ""
        tenant, project, flow = (*self.member.split("/", 2), "", "")[:3]
        return tenant, project, flow


def allocate(amount_nano: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Nano-USD of each member, by name; they add up to the amount exactly, whatever the order of the weights.

    When no weight is above zero all of it is UNALLOCATED. Raises CostError (`weights-invalid`) for a weight
    below zero.
    """
    members = sorted(weights)
    if min(weights.values(), default=0) >= 0 and not any(weights.values()):
        return {UNALLOCATED: amount_nano}
    shares = split_amount(amount_nano, [weights[member] for member in members])
    return dict(zip(members, shares, strict=True))


def allocate_shared(lines: Sequence[SharedLine], month: str, usage: UsageByKey) -> tuple[SharedRow, ...]:
    """The rows of a month: for each line that holds in it its members by name, those that get nothing too.

    `month` is YYYY-MM. The rows of a line add up to its amount. Raises CostError (`weights-invalid`).
    """
    rows: list[SharedRow] = []
    for line in lines:
        if not line.holds_in(month):
            continue
        weights = (
            dict(line.weights or {}) if line.key == "weights" else usage.get(line.over, {}).get(line.key, {})
        )
        whole = sum(weights.values())
        rows += (
            SharedRow(
                month=month,
                line=line.name,
                key=line.key,
                over=line.over,
                member=member,
                weight=weights.get(member, 0),
                whole=whole,
                nano=nano,
                description=line.description,
            )
            for member, nano in allocate(line.nano, weights).items()
        )
    if sum(row.nano for row in rows) != sum(line.nano for line in lines if line.holds_in(month)):
        raise CostError("shared costs do not add up to their lines", place=month, code="shared-sum")
    return tuple(rows)


def list_charges(rows: Sequence[SharedRow]) -> list[Charge]:
    """The rows as charges of a FOCUS export, on the first day of their month; rows of zero are left out."""
    from maestro_dagster.costs.focus import Charge

    charges = []
    for row in rows:
        if not row.nano:
            continue
        tenant, project, flow = row.names
        tags = {"line": row.line, "key": row.key, "flow": flow}
        charges.append(
            Charge(
                tenant=tenant,
                nano=row.nano,
                description=row.description or row.line,
                start=f"{row.month}-01T00:00:00Z",
                project=project,
                tags=tuple((name, value) for name, value in tags.items() if value),
            )
        )
    return charges
