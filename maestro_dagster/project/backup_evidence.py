"""The bundles that a backup takes. One that is lost stops none: the rest is worth the more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from maestro_dagster.errors import EvidenceError
from maestro_dagster.evidence.store import EvidenceStore


@dataclass
class BundleFaults:
    """Runs whose evidence is not as the journal knows it.

    `lost`: with the digest, nobody has the bundle. `changed`: the store has something else under its name;
    a copy on this machine went into the backup. `put_back`: the store lacked it and has it again, from here.
    """

    lost: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    put_back: list[str] = field(default_factory=list)

    @property
    def told(self) -> tuple[str, ...]:
        return (*self.lost, *self.changed)


def read_bundles(
    store: EvidenceStore, bundles: Mapping[str, str], faults: BundleFaults, say: Callable[[str], object]
) -> Iterator[tuple[str, bytes]]:
    """(run, bundle) of each whose digest is right; the others stand in `faults`.

    Raises EvidenceError (`evidence-unreachable`).
    """
    for number, (run_id, digest) in enumerate(bundles.items(), start=1):
        say(f"evidence: {number} of {len(bundles)} bundles")
        found = store.find(run_id, digest)
        if found.data is None:
            faults.lost[run_id] = digest
            continue
        if found.stored == "changed":
            faults.changed.append(run_id)
        elif found.stored == "missing" and _put_back(store, run_id, found.data):
            faults.put_back.append(run_id)
        yield run_id, found.data


def _put_back(store: EvidenceStore, run_id: str, data: bytes) -> bool:
    try:
        store.publish(run_id, data)
    except EvidenceError as error:
        if error.error_code == "evidence-conflict":
            return False  # somebody else was first; the next backup looks at what he wrote
        raise
    return True
