from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro_dagster.errors import EvidenceError
from maestro_dagster.evidence import archive
from maestro_dagster.evidence.archive import read_archive, write_archive

NAMES = st.text("abz.-/_09", min_size=1, max_size=20)
FILES = {"a.txt": b"alpha", "b/c.json": b"{}"}


@given(st.dictionaries(NAMES, st.binary(max_size=40), min_size=1, max_size=6))
def test_what_is_written_is_read(files: dict[str, bytes]) -> None:
    data = write_archive(files)
    assert read_archive(data) == files
    assert write_archive(dict(reversed(files.items()))) == data


def test_other_readers_read_it() -> None:
    with zipfile.ZipFile(io.BytesIO(write_archive(FILES))) as reader:
        assert reader.testzip() is None
        assert {name: reader.read(name) for name in reader.namelist()} == FILES
        for entry in reader.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert entry.external_attr >> 16 == 0o100644


def rezip(change: Callable[[zipfile.ZipFile], None], **options: int) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", **options) as writer:
        change(writer)
    return memory.getvalue()


def write_all(writer: zipfile.ZipFile) -> None:
    for name, data in FILES.items():
        writer.writestr(name, data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_entries_are_refused() -> None:
    def twice(writer: zipfile.ZipFile) -> None:
        for data in (b"1", b"2"):
            writer.writestr(zipfile.ZipInfo("a.txt"), data)

    with pytest.raises(EvidenceError, match="twice"):
        read_archive(rezip(twice))


def test_a_bomb_is_refused_unopened() -> None:
    bomb = rezip(lambda writer: writer.writestr("a", bytes(10**7)), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(EvidenceError) as caught:
        read_archive(bomb)
    assert caught.value.error_code == "archive-invalid"


VALID = write_archive(FILES)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        b"PK\x03\x04",
        b"PK\x03\x04" + bytes(40),
        VALID[:-1],
        VALID + b"\x00",
        b"\x00" + VALID,
        VALID[:-2] + b"\x05\x00hello",
        rezip(write_all),
        rezip(write_all, compression=zipfile.ZIP_DEFLATED),
        write_archive({"a": b"1"}) + VALID,
        VALID.replace(b"a.txt", b"\xff.txt"),
        b"PK\x05\x06" + bytes(18),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceError) as caught:
        read_archive(data)
    assert caught.value.error_code in {"archive-invalid", "archive-not-canonical"}


def test_random_bytes_never_crash_it() -> None:
    source = random.Random(7)
    for _ in range(2000):
        data = bytearray(VALID)
        for _ in range(source.randint(1, 6)):
            data[source.randrange(len(data))] = source.randrange(256)
        data = data[: source.randrange(len(data)) + 1]
        if bytes(data) != VALID:
            with pytest.raises(EvidenceError):
                read_archive(bytes(data))


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "SIZE_LIMIT", 50)
    with pytest.raises(EvidenceError) as caught:
        write_archive({"a": bytes(60)})
    assert caught.value.error_code == "archive-too-large"
    with pytest.raises(EvidenceError) as caught:
        read_archive(VALID)
    assert caught.value.error_code == "archive-too-large"
