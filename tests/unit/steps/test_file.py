from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.errors import StepError
from maestro_dagster.steps.file_read import FileRead
from maestro_dagster.steps.file_write import FileWrite


async def read_fault(bench: Any, path: str, **config: Any) -> StepError:
    with pytest.raises(StepError) as caught:
        await bench.run(FileRead(), {"path": path, **config})
    return caught.value


async def write_fault(bench: Any, path: str, **config: Any) -> StepError:
    with pytest.raises(StepError) as caught:
        await bench.run(FileWrite(), {"path": path, "content": "x", **config})
    return caught.value


async def test_a_file_is_read_with_the_type_of_its_name(bench: Any) -> None:
    (bench.root / "data").mkdir()
    (bench.root / "data" / "a.yaml").write_text("a: 1")
    result = await bench.run(FileRead(), {"path": "./data//a.yaml"})
    assert (result.data, result.media_type) == (b"a: 1", "application/yaml")
    assert result.facts == {"path": "data/a.yaml"}


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a/\0b", ".", "a\\b", "x" * 2000])
async def test_paths_out_of_the_project_are_refused(bench: Any, path: str) -> None:
    assert (await read_fault(bench, path)).error_code == "file-path"
    assert (await write_fault(bench, path)).error_code == "file-path"


@pytest.mark.parametrize(
    "path", [".maestro/keys/maestro.pem", ".git/config", "sub/.git/hooks/x", ".MAESTRO/journal.sqlite"]
)
async def test_the_state_is_neither_read_nor_written(bench: Any, path: str) -> None:
    assert (await read_fault(bench, path)).error_code == "file-guarded"
    assert (await write_fault(bench, path)).error_code == "file-guarded"


@pytest.mark.parametrize(
    "path",
    ["policies/x/x.rego", "Policies/a", "assets/flow.yaml", "resources/rates.yaml", "sensors/a.py",
     "recipes/a/b", "pyproject.toml", ".venv/bin/python", ".github/workflows/x.yml", "out/.hidden"],
)  # fmt: skip
async def test_what_decides_how_flows_run_is_not_written(bench: Any, path: str) -> None:
    assert (await write_fault(bench, path)).error_code == "file-guarded"
    assert not (bench.root / path).exists()


async def test_links_are_not_followed(bench: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (bench.root / "link").symlink_to(outside)
    (bench.root / "file").symlink_to(outside / "secret")
    (bench.root / "inner").mkdir()
    (bench.root / "inner" / "up").symlink_to("../..")
    for path in ("link/secret", "file", "inner/up/outside/secret"):
        assert (await read_fault(bench, path)).error_code == "file-link"
    for path in ("link/new", "inner/up/new"):
        assert (await write_fault(bench, path)).error_code == "file-link"
    # A link as the last part is replaced, never written through.
    await bench.run(FileWrite(), {"path": "file", "content": "mine"})
    assert (outside / "secret").read_text() == "secret"
    assert (bench.root / "file").read_text() == "mine"
    assert list(outside.iterdir()) == [outside / "secret"]


async def test_what_is_no_file_is_refused_at_once(bench: Any) -> None:
    (bench.root / "folder").mkdir()
    os.mkfifo(bench.root / "pipe")
    assert (await read_fault(bench, "folder")).error_code == "file-kind"
    assert (await read_fault(bench, "pipe")).error_code == "file-kind"
    assert (await read_fault(bench, "gone")).error_code == "file-missing"
    assert (await write_fault(bench, "folder")).error_code == "file-kind"


async def test_too_large_a_file_is_refused(bench: Any) -> None:
    (bench.root / "big").write_bytes(b"x" * 101)
    large = await read_fault(bench, "big", max_bytes=100)
    assert large.error_code == "file-too-large"
    assert "max_bytes" in large.remedy
    assert "project's root" not in large.remedy


async def test_a_text_and_an_input_are_written(bench: Any) -> None:
    result = await bench.run(FileWrite(), {"path": "out/deep/a.md", "content": "# Hi"})
    assert (bench.root / "out/deep/a.md").read_text() == "# Hi"
    assert (result.data, result.media_type) == (b"# Hi", "text/markdown")
    artifact = bench.put(b"\x00\x01", "application/x-thing")
    result = await bench.run(FileWrite(), {"path": "out/b.bin"}, made=artifact)
    assert (bench.root / "out/b.bin").read_bytes() == b"\x00\x01"
    assert result.artifact == artifact
    assert result.facts == {"path": "out/b.bin", "bytes": 2}


async def test_an_existing_file_is_kept_when_it_must_be(bench: Any) -> None:
    (bench.root / "a").write_text("old")
    assert (await write_fault(bench, "a", overwrite=False)).error_code == "file-exists"
    assert (bench.root / "a").read_text() == "old"
    assert (
        sorted(path.name for path in bench.root.iterdir()) == [".maestro", "a"] or (bench.root / "a").exists()
    )
    assert not list(bench.root.glob(".*.part"))


async def test_a_failed_write_leaves_the_old_file_and_no_rest(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.root / "a").write_text("old")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert (await write_fault(bench, "a")).error_code == "disk-full"
    assert (bench.root / "a").read_text() == "old"
    assert not list(bench.root.glob(".*.part"))


async def test_readers_see_the_old_or_the_new_file_never_a_half(bench: Any) -> None:
    texts = {"a" * 100_000, "b" * 100_000}
    await bench.run(FileWrite(), {"path": "file", "content": min(texts)})
    seen: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.add((bench.root / "file").read_text())

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(20):
        for text in texts:
            await bench.run(FileWrite(), {"path": "file", "content": text})
    stop.set()
    thread.join()
    assert seen <= texts


def test_the_effects_name_the_path() -> None:
    kind = FileWrite()
    assert kind.effects(kind.config.model_validate({"path": "out/a"})).paths == ("out/a",)
