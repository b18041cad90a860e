"""The hash tree over a run's claims (RFC 6962 2.1) and proofs of inclusion (RFC 9162 2.1.3.2)."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from hashlib import sha256


def hash_leaf(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """All levels of the tree, so that every proof is a walk without another hash.

    Pairing neighbours level by level and lifting an odd last one unchanged gives the same tree as the
    recursive split at the largest power of two.
    """

    def __init__(self, leaves: Iterable[bytes]) -> None:
        level = [hash_leaf(leaf) for leaf in leaves]
        self._levels = [level]
        while len(level) > 1:
            parents = [hash_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
            if len(level) % 2:
                parents.append(level[-1])
            self._levels.append(parents)
            level = parents

    @property
    def size(self) -> int:
        return len(self._levels[0])

    @property
    def root(self) -> bytes:
        """32 bytes; of the empty tree the hash of nothing (RFC 6962)."""
        return self._levels[-1][0] if self.size else sha256(b"").digest()

    def inclusion_proof(self, index: int) -> tuple[bytes, ...]:
        """The siblings from the leaf up. Raises IndexError outside the tree."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        proof = []
        for level in self._levels[:-1]:
            sibling = index ^ 1
            if sibling < len(level):
                proof.append(level[sibling])
            index >>= 1
        return tuple(proof)


def inclusion_proof(leaves: Iterable[bytes], index: int) -> tuple[bytes, ...]:
    """The audit path of one leaf; keep a `MerkleTree` to make many."""
    return MerkleTree(leaves).inclusion_proof(index)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """True when `leaf` (data, not hash) stands at `index` of the tree of `size` leaves under `root`."""
    if not 0 <= index < size:
        return False
    position, last = index, size - 1
    node = hash_leaf(leaf)
    for sibling in proof:
        if last == 0:
            return False
        if position % 2 or position == last:
            node = hash_node(sibling, node)
            while position % 2 == 0 and position:
                position >>= 1
                last >>= 1
        else:
            node = hash_node(node, sibling)
        position >>= 1
        last >>= 1
    return last == 0 and hmac.compare_digest(node, root)
