"""Artifacts and evidence on a real S3 server: made once, never torn, never held whole."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from maestro_dagster.artifacts.remote import RemoteStore
from maestro_dagster.errors import EvidenceError, MaestroError, StoreError
from maestro_dagster.evidence.store import EvidenceStore, read_location
from maestro_dagster.manifest.canonical import digest_bytes
from maestro_dagster.objects.bucket import Bucket

pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")
MIB = 1024 * 1024


@pytest.fixture
def url(s3_bucket: str) -> str:
    return f"{s3_bucket}/prefix"


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(MaestroError) as caught:
        call()
    return caught.value.error_code


def run_together(count: int, work: Callable[[int], None]) -> None:
    failed: list[BaseException] = []
    gate = threading.Barrier(count)

    def act(number: int) -> None:
        try:
            gate.wait()
            work(number)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=act, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_of_many_writers_one_creates_and_nothing_is_torn(url: str) -> None:
    for size in (1000, 17 * MIB):  # in one request, and in parts
        made: list[int] = []
        contents = [bytes([number]) * size for number in range(4)]

        def create(number: int) -> None:
            if Bucket(url).create(f"object-{size}", contents[number]):  # noqa: B023
                made.append(number)  # noqa: B023

        run_together(4, create)
        assert len(made) == 1
        assert Bucket(url).read(f"object-{size}") == contents[made[0]]


def test_writers_of_one_artifact_agree(url: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(18 * MIB))
    digests: list[str] = []
    run_together(3, lambda _: digests.append(RemoteStore(url).put_file(path, "x/y").digest))
    assert set(digests) == {"sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()}
    assert list(RemoteStore(url).contents()) == [(digests[0], path.stat().st_size)]


def test_a_large_file_is_never_held_whole(url: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        for _ in range(96):
            file.write(os.urandom(MIB))
    script = (
        "import sys, resource; from pathlib import Path\n"
        "from maestro_dagster.artifacts.remote import RemoteStore\n"
        "store = RemoteStore(sys.argv[1]); store.put_bytes(b'warm', 'x/y')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "made = store.put_file(Path(sys.argv[2]), 'x/y'); store.export(made, Path(sys.argv[3]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", script, url, str(path), str(tmp_path / "back")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 80 * 1024  # KiB; the file has 96 MiB
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


def test_a_file_that_changes_meanwhile_is_not_kept(url: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 20 * MIB)
    bucket = Bucket(url)

    def pieces() -> Iterator[bytes]:
        yield b"a" * 18 * MIB
        yield b"b" * 2 * MIB

    wanted = hashlib.sha256(path.read_bytes()).hexdigest()
    assert code_of(lambda: bucket.create_from("object", pieces(), 20 * MIB, wanted)) == "object-changed"
    assert bucket.stat("object") is None
    assert bucket.list() == {}


def test_a_part_written_object_does_not_exist(url: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"a" * 20 * MIB
        raise RuntimeError("the writer died")

    with pytest.raises(StoreError):
        Bucket(url).create_from("object", pieces(), 40 * MIB, "0" * 64)
    assert Bucket(url).list() == {}


def test_a_damaged_artifact_is_found_and_healed(url: str) -> None:
    store, bucket = RemoteStore(url), Bucket(url)
    artifact = store.put_bytes(b"content", "x/y")
    (name,) = bucket.list()
    bucket.remove(name)
    assert code_of(lambda: store.read(artifact.digest)) == "artifact-missing"
    bucket.create(name, b"other")
    assert code_of(lambda: store.read(artifact.digest)) == "artifact-corrupt"
    store.put_bytes(b"content", "x/y")
    assert store.read(artifact.digest) == b"content"


def test_trees_and_many_small_files(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    for number in range(30):
        (folder / f"d{number % 3}").mkdir(parents=True, exist_ok=True)
        (folder / f"d{number % 3}" / str(number)).write_bytes(b"%d" % (number % 10))
    store = RemoteStore(url)
    artifact = store.put_tree(folder)
    store.export(artifact, tmp_path / "back")
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").rglob("*") if path.is_file()} == {
        str(number): b"%d" % (number % 10) for number in range(30)
    }


def test_a_forked_child_can_store(url: str) -> None:
    store = RemoteStore(url)
    store.put_bytes(b"parent", "x/y")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store.put_bytes(b"child", "x/y")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert store.read(digest_bytes(b"child")) == b"child"


def test_a_store_that_is_away_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RemoteStore("s3://there-is-no-such-bucket/x")
    assert code_of(lambda: store.put_bytes(b"a", "x/y")) == "artifact-write"
    evidence = EvidenceStore(Path("/nowhere"), "nonsense://x")
    assert code_of(lambda: evidence.place("r1")) == "evidence-unreachable"


def test_evidence_is_never_replaced(url: str, tmp_path: Path) -> None:
    here, there = (EvidenceStore(tmp_path / name, url) for name in ("here", "there"))
    path = here.publish("r1", b"proof")
    assert (path, path.read_bytes(), here.place("r1")) == (
        tmp_path / "here" / "r1.zip",
        b"proof",
        f"{url}/r1.zip",
    )
    assert there.publish("r1", b"proof").read_bytes() == b"proof"  # the same bytes are the same evidence
    with pytest.raises(EvidenceError) as caught:
        there.publish("r1", b"another proof")
    assert caught.value.error_code == "evidence-conflict"
    assert here.read("r1") == there.read("r1") == read_location(f"{url}/r1.zip") == b"proof"
    assert list(there.runs()) == ["r1"]


def test_evidence_is_found_by_another_machine(url: str, tmp_path: Path) -> None:
    EvidenceStore(tmp_path / "here", url).publish("r1", b"proof")
    there = EvidenceStore(tmp_path / "there", url)
    assert there.fetch("r1", digest_bytes(b"other")) is None
    found = there.fetch("r1", digest_bytes(b"proof"))
    assert found is not None
    assert found.read_bytes() == b"proof"
    found.write_bytes(b"spoilt")  # a copy: what counts is in the object store
    again = there.fetch("r1", digest_bytes(b"proof"))
    assert again is not None
    assert again.read_bytes() == b"proof"
    assert code_of(lambda: there.read("r2")) == "bundle-missing"
    assert code_of(lambda: there.read("../r1")) == "bundle-missing"
    assert code_of(lambda: read_location(f"{url}/r2.zip")) == "bundle-missing"


def test_a_project_keeps_everything_in_object_stores(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines: what one runs, the other verifies, exports and closes again with the same bytes."""
    from click.testing import CliRunner

    from maestro_dagster.cli.main import command
    from maestro_dagster.engine.engine import Engine
    from maestro_dagster.engine.interface import RunRequest
    from maestro_dagster.manifest.read import read_flow
    from maestro_dagster.project.root import open_project
    from maestro_dagster.project.scaffold import init_project
    from maestro_dagster.project.services import open_services
    from maestro_dagster.steps.catalogue import load_catalogue

    root = tmp_path / "shop"
    init_project(root)
    for name in ("artifact_store", "evidence", "lake"):
        monkeypatch.setenv(f"MAESTRO_{name.upper()}", f"{url}/{name}")
    project = open_project(root)
    engine = Engine(open_services(project))
    flow = read_flow(project.find_flow("hello"), load_catalogue())
    engine.request(RunRequest("r1", flow))
    engine.admit("r1")
    list(engine.stream_segment("r1", tuple(task.id for task in flow.tasks)))
    bundle = engine.close("r1")
    data = bundle.read_bytes()
    assert engine.view("r1").evidence == f"{url}/evidence/r1.zip"
    bundle.unlink()
    assert engine.close("r1").read_bytes() == data
    assert not (project.home / "artifacts").exists()
    engine.services.policy.close()
    engine.services.journal.close()
    monkeypatch.chdir(root)
    shown = CliRunner().invoke(command, ["verify", f"{url}/evidence/r1.zip", "--json"], standalone_mode=False)
    assert shown.return_value == 0, shown.output
    target = str(tmp_path / "r1.zip")
    CliRunner().invoke(command, ["evidence", "export", "r1", "-o", target], standalone_mode=False)
    assert Path(target).read_bytes() == data
