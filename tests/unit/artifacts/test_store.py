"""The store keeps what it was given, and gives nothing else."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maestro_dagster.artifacts import local
from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact, ArtifactStore
from maestro_dagster.artifacts.store import open_store
from maestro_dagster.errors import StoreError
from maestro_dagster.manifest.canonical import canonical_json

SOAK = os.environ.get("MAESTRO_SOAK") == "1"
EXAMPLES = 500 if SOAK else 25


def object_path(store: Any, digest: str) -> Path:
    return Path(store.root, "sha256", digest[7:9], digest[7:])


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "local":
        return open_store(tmp_path / "store")
    return open_store(f"memory://{tmp_path.name}")


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as caught:
        call()
    return caught.value.error_code


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(st.binary(max_size=300), max_size=6))
def test_what_was_put_is_read_back(store: ArtifactStore, contents: list[bytes]) -> None:
    artifacts = store.put_many([(data, "text/plain") for data in contents])
    for artifact, data in zip(artifacts, contents, strict=True):
        assert artifact == Artifact("sha256:" + hashlib.sha256(data).hexdigest(), "text/plain", len(data))
        assert store.has(artifact.digest)
        assert store.read(artifact.digest) == data


def test_a_large_file_is_stored_without_reading_it_whole(store: ArtifactStore, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(3_000_000))
    first, second = store.put_file(path, "a/b"), store.put_file(path, "a/b")
    assert first == second
    assert store.read(first.digest) == path.read_bytes()


def test_missing_and_malformed_digests_are_told_apart(store: ArtifactStore) -> None:
    assert code_of(lambda: store.read("sha256:" + "0" * 64)) == "artifact-missing"
    assert not store.has("sha256:" + "0" * 64)
    for bad in ("", "sha256:", "sha256:../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0" * 64):
        assert code_of(lambda bad=bad: store.read(bad)) == "digest-malformed"  # type: ignore[misc]


@pytest.mark.parametrize("position", [0, 5, 11])
def test_a_flipped_bit_is_found_and_putting_it_again_heals(tmp_path: Path, position: int) -> None:
    store: Any = open_store(tmp_path / "store")
    artifact = store.put_bytes(b"twelve bytes", "text/plain")
    path = object_path(store, artifact.digest)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    assert code_of(lambda: store.read(artifact.digest)) == "artifact-corrupt"
    assert code_of(lambda: store.export(artifact, tmp_path / "out")) == "artifact-corrupt"
    assert not (tmp_path / "out").exists()
    store.put_bytes(b"twelve bytes", "text/plain")
    assert store.read(artifact.digest) == b"twelve bytes"


def test_a_truncated_object_is_healed_and_a_whole_one_left_alone(tmp_path: Path) -> None:
    store: Any = open_store(tmp_path / "store")
    artifact = store.put_bytes(b"content", "text/plain")
    path = object_path(store, artifact.digest)
    before = path.stat()
    assert stat.S_IMODE(before.st_mode) == 0o444
    store.put_bytes(b"content", "text/plain")
    assert path.stat().st_ino == before.st_ino
    path.chmod(0o644)
    path.write_bytes(b"con")
    open_store(tmp_path / "store").put_bytes(b"content", "text/plain")
    assert store.read(artifact.digest) == b"content"


def test_a_corrupt_object_in_memory_is_healed() -> None:
    store: Any = open_store("memory://heal")
    artifact = store.put_bytes(b"content", "text/plain")
    name = next(iter(store._bucket.list()))
    store._bucket.remove(name)
    store._bucket.create(name, b"other")
    assert code_of(lambda: store.read(artifact.digest)) == "artifact-corrupt"
    store.put_bytes(b"content", "text/plain")
    assert store.read(artifact.digest) == b"content"


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = open_store(tmp_path / "store")
    store.put_bytes(b"first", "text/plain")

    def full(handle: int, data: bytes) -> None:
        os.write(handle, data[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local, "_write", full)
    assert code_of(lambda: store.put_many([(b"second", "x/y"), (b"third", "x/y")])) == "disk-full"
    large = tmp_path / "large"
    large.write_bytes(b"x" * 2_000_000)
    assert code_of(lambda: store.put_file(large, "x/y")) == "disk-full"
    assert [path.name for path in (tmp_path / "store").rglob("*.tmp")] == []
    monkeypatch.undo()
    assert store.put_bytes(b"second", "x/y").size == 6


def test_everything_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of system calls that a power cut needs: file, rename, folder."""
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def note_rename(source: str, target: str) -> None:
        calls.append("rename")
        rename(source, target)

    store = open_store(tmp_path / "store")
    store.put_bytes(b"a", "x/y")
    folder = {hashlib.sha256(data).hexdigest()[:2] for data in (b"b", b"c")}
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    store.put_many([(b"b", "x/y"), (b"c", "x/y")])
    first_rename = calls.index("rename")
    assert calls[:first_rename].count("file") == 2
    assert "file" not in calls[first_rename:]
    assert calls[-len(folder) :] == ["folder"] * len(folder)


def test_two_threads_may_put_the_same(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    data = [os.urandom(50) for _ in range(20)]
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for each in data:
                assert store.read(store.put_bytes(each, "x/y").digest) == each
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=8
)
PATHS = st.lists(NAMES.filter(lambda name: name not in {".", ".."}), min_size=1, max_size=3).map(tuple)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(PATHS, st.tuples(st.binary(max_size=40), st.booleans()), max_size=6))
def test_a_folder_comes_back_as_it_was(
    store: ArtifactStore, tmp_path: Path, files: dict[tuple[str, ...], tuple[bytes, bool]]
) -> None:
    number = uuid.uuid4()
    source, target = tmp_path / f"{number}-in", tmp_path / f"{number}-out"
    source.mkdir()
    kept: dict[str, tuple[bytes, bool]] = {}
    for path, (data, executable) in files.items():
        place = source.joinpath(*path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                continue
            place.write_bytes(data)
        except OSError:  # one path is another's folder
            continue
        place.chmod(0o755 if executable else 0o644)
        kept["/".join(path)] = (data, executable)
    tree = store.put_tree(source)
    assert tree == store.put_tree(source)
    assert {entry.path: entry.executable for entry in store.read_tree(tree.digest)} == {
        path: executable for path, (_, executable) in kept.items()
    }
    store.export(tree, target)
    found = {
        str(path.relative_to(target)): (
            path.read_bytes(),
            os.access(path, os.X_OK) and bool(path.stat().st_mode & 0o100),
        )
        for path in target.rglob("*")
        if path.is_file()
    }
    assert found == kept


def test_links_inside_are_followed_and_all_others_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("x")
    (folder / "link").symlink_to("sub/file")
    (folder / "linked").symlink_to("sub")
    paths = [entry.path for entry in store.read_tree(store.put_tree(folder).digest)]
    assert paths == ["link", "linked/file", "sub/file"]
    (tmp_path / "secret").write_text("secret")
    for target in ("../secret", str(tmp_path / "secret"), "nowhere", "/etc/passwd"):
        bad = folder / "bad"
        bad.symlink_to(target)
        assert code_of(lambda: store.put_tree(folder)) == "tree-link"
        bad.unlink()
    (folder / "sub" / "up").symlink_to("..")
    assert code_of(lambda: store.put_tree(folder)) == "tree-loop"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    assert code_of(lambda: store.put_tree(folder)) == "tree-special"
    (folder / "pipe").unlink()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).write_text("x")
    assert code_of(lambda: store.put_tree(folder)) == "tree-name"
    assert code_of(lambda: store.put_tree(tmp_path / "absent")) == "tree-missing"


def test_setuid_never_travels(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "tool").write_text("x")
    (folder / "tool").chmod(0o4755)
    store.export(store.put_tree(folder), tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out" / "tool").stat().st_mode) & 0o7000 == 0


@pytest.mark.parametrize(
    "path", ["../out", "/etc/passwd", "a/../../b", "a//b", "", ".", "a/./b", "a/", "a\0b"]
)
def test_a_tree_cannot_lead_out_of_its_folder(tmp_path: Path, path: str) -> None:
    store = open_store(tmp_path / "store")
    file = store.put_bytes(b"x", "text/plain")
    entry = {"path": path, "digest": file.digest, "size": 1, "executable": False}
    tree = store.put_bytes(canonical_json({"entries": [entry], "version": 1}), TREE_MEDIA_TYPE)
    assert code_of(lambda: store.export(tree, tmp_path / "deep" / "out")) == "tree-malformed"
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"entries":[],"version":2}',
        b'{"entries":{},"version":1,"more":0}',
        b'{"entries":[{"path":"a"}],"version":1}',
        b'{"entries":[[]],"version":1}',
        b'{"entries":3,"version":1}',
        b"\xff",
    ],
)
def test_what_is_no_tree_is_refused(tmp_path: Path, text: bytes) -> None:
    store = open_store(tmp_path / "store")
    digest = store.put_bytes(text, TREE_MEDIA_TYPE).digest
    assert code_of(lambda: store.read_tree(digest)) in {"tree-malformed", "digest-malformed"}


def test_a_path_below_a_file_and_a_path_twice_are_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    file = store.put_bytes(b"x", "text/plain")
    for paths in (["a", "a/b"], ["a", "a"], ["b", "a"]):
        entries = [{"path": path, "digest": file.digest, "size": 1, "executable": False} for path in paths]
        tree = store.put_bytes(canonical_json({"entries": entries, "version": 1}), TREE_MEDIA_TYPE)
        assert code_of(lambda tree=tree: store.read_tree(tree.digest)) == "tree-malformed"  # type: ignore[misc]


def test_an_export_neither_overwrites_nor_follows_links(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("new")
    tree = store.put_tree(folder)
    target = tmp_path / "target"
    (target / "sub").mkdir(parents=True)
    (target / "sub" / "file").write_text("old")
    assert code_of(lambda: store.export(tree, target)) == "export-occupied"
    assert (target / "sub" / "file").read_text() == "old"
    outside, linked = tmp_path / "outside", tmp_path / "linked"
    outside.mkdir()
    linked.mkdir()
    (linked / "sub").symlink_to(outside)
    assert code_of(lambda: store.export(tree, linked)) == "export-occupied"
    assert list(outside.iterdir()) == []


def test_a_store_that_cannot_be_opened_says_so() -> None:
    assert code_of(lambda: open_store("nosuchprotocol://x")) == "store-unavailable"
