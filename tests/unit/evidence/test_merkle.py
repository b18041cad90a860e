"""The tree against a second implementation, straight from the recursive definition of RFC 6962 2.1."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro_dagster.evidence.merkle import MerkleTree, inclusion_proof, verify_inclusion

LEAVES = st.lists(st.binary(max_size=8), min_size=1, max_size=40)


def split(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


def root_of(leaves: list[bytes]) -> bytes:
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    middle = split(len(leaves))
    return sha256(b"\x01" + root_of(leaves[:middle]) + root_of(leaves[middle:])).digest()


def path_of(index: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    middle = split(len(leaves))
    if index < middle:
        return [*path_of(index, leaves[:middle]), root_of(leaves[middle:])]
    return [*path_of(index - middle, leaves[middle:]), root_of(leaves[:middle])]


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_root_is_that_of_the_recursive_definition(leaves: list[bytes]) -> None:
    assert MerkleTree(leaves).root == root_of(leaves)


@given(LEAVES)
def test_every_leaf_is_proven_by_the_path_of_the_recursive_definition(leaves: list[bytes]) -> None:
    tree = MerkleTree(leaves)
    for index, leaf in enumerate(leaves):
        proof = tree.inclusion_proof(index)
        assert list(proof) == path_of(index, leaves)
        assert verify_inclusion(leaf, index, len(leaves), proof, tree.root)


@given(LEAVES, st.data())
def test_a_proof_holds_for_nothing_else(leaves: list[bytes], data: st.DataObject) -> None:
    tree = MerkleTree(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof, leaf, size = list(tree.inclusion_proof(index)), leaves[index], len(leaves)
    assert not verify_inclusion(leaf + b"x", index, size, proof, tree.root)
    assert not verify_inclusion(leaf, index, size, [*proof, tree.root], tree.root)
    assert not verify_inclusion(leaf, index, size, proof, sha256(tree.root).digest())
    assert not verify_inclusion(leaf, -1, size, proof, tree.root)
    assert not verify_inclusion(leaf, size, size, proof, tree.root)
    if proof:
        assert not verify_inclusion(leaf, index, size, proof[:-1], tree.root)
        position = data.draw(st.integers(0, len(proof) - 1))
        proof[position] = sha256(proof[position]).digest()
        assert not verify_inclusion(leaf, index, size, proof, tree.root)


def test_an_inner_node_is_no_leaf() -> None:
    tree = MerkleTree([b"a", b"b", b"c"])
    inner = b"".join(sha256(b"\x00" + leaf).digest() for leaf in (b"a", b"b"))
    proof = tree.inclusion_proof(2)
    assert not verify_inclusion(inner, 0, 2, [sha256(b"\x00c").digest()], tree.root)
    assert proof == inclusion_proof([b"a", b"b", b"c"], 2)


def test_known_roots_of_rfc_6962() -> None:
    # Figures published with the certificate-transparency reference implementation.
    leaves = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243")]
    roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    ]
    for size, root in enumerate(roots, 1):
        assert MerkleTree(leaves[:size]).root.hex() == root


def test_outside_the_tree() -> None:
    with pytest.raises(IndexError):
        MerkleTree([b"a"]).inclusion_proof(1)
    assert MerkleTree([]).root == sha256(b"").digest()
