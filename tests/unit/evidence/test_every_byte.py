"""Not one byte of a bundle can change unseen."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from maestro_dagster.evidence.archive import read_archive, write_archive
from maestro_dagster.evidence.bundle import build_bundle
from maestro_dagster.evidence.interface import RunRecord
from maestro_dagster.evidence.key import KeySigner
from maestro_dagster.evidence.verify import verify_bundle

Record = Callable[..., RunRecord]
SOAK = os.environ.get("MAESTRO_SOAK") == "1"


def flips(source: random.Random) -> list[int]:
    """What to change in a byte: one random change, or each bit of it."""
    return [1 << bit for bit in range(8)] if SOAK else [source.randrange(1, 256)]


def test_every_byte_of_the_archive(record: Record, signer: KeySigner) -> None:
    data, keys, source = build_bundle(record(), signer), [signer.public_pem], random.Random(1)
    assert verify_bundle(data, keys).ok
    for position in range(len(data)):
        for flip in flips(source):
            broken = bytearray(data)
            broken[position] ^= flip
            assert not verify_bundle(bytes(broken), keys).ok, (position, flip)


def test_every_byte_of_every_file_in_an_archive_made_anew(record: Record, signer: KeySigner) -> None:
    # The archive's check sums are right again here: what refuses is the signature and what it binds.
    files, keys, source = read_archive(build_bundle(record(), signer)), [signer.public_pem], random.Random(2)
    for name, data in files.items():
        for position in range(len(data)):
            for flip in flips(source):
                broken = bytearray(data)
                broken[position] ^= flip
                report = verify_bundle(write_archive(files | {name: bytes(broken)}), keys)
                assert not report.ok, (name, position, flip)


def test_every_byte_taken_away_or_doubled(record: Record, signer: KeySigner) -> None:
    data, keys = build_bundle(record(), signer), [signer.public_pem]
    for position in range(0, len(data), 7):
        assert not verify_bundle(data[:position] + data[position + 1 :], keys).ok
        assert not verify_bundle(data[:position] + data[position : position + 1] + data[position:], keys).ok
        assert not verify_bundle(data[:position], keys).ok
