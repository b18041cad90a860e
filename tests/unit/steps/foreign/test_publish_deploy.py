from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.errors import StepError
from maestro_dagster.steps import publish_directory
from maestro_dagster.steps.deploy_directory import DeployDirectory, Target, prune
from maestro_dagster.steps.publish_directory import PublishDirectory
from maestro_dagster.steps.simple_index import list_releases

SIGNED = {"require_signatures": False}


def wheel(version: str, code: str = "", requires: str = "", name: str = "shop") -> tuple[str, bytes]:
    """A wheel that pip installs, with a module and a script."""
    info = f"{name}-{version}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: >=3.9\n"
    files = {
        f"{name}.py": f"VERSION = '{version}'\n{code}\ndef main():\n    print('{name}', VERSION)\n",
        f"{info}/METADATA": head + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text)}\n"
        for path, text in files.items()
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in (files | {f"{info}/RECORD": record + f"{info}/RECORD,,\n"}).items():
            archive.writestr(zipfile.ZipInfo(path, (2024, 1, 1, 0, 0, 0)), text)
    return f"{name}-{version}-py3-none-any.whl", buffer.getvalue()


async def publish(
    bench: Any, version: str = "1.0", code: str = "", requires: Any = "", name: Any = "shop", **config: Any
) -> Any:
    file, data = wheel(version, code, requires, name)
    inputs = {"build": bench.tree({file: data, f"{name}-{version}.tar.gz": b"sdist " + version.encode()})}
    return await bench.run(PublishDirectory, SIGNED | config, inputs)


async def test_a_release_can_be_installed_from_the_index(bench: Any) -> None:
    await publish(bench, "1.0")
    await publish(bench, "1.10")
    result = await publish(bench, "1.9")
    root = bench.root / "published"
    page = json.loads((root / "simple" / "shop" / "index.json").read_text())
    assert page["versions"] == ["1.0", "1.9", "1.10"]
    file = next(item for item in page["files"] if item["filename"].endswith("1.9-py3-none-any.whl"))
    path = (root / "simple" / "shop" / file["url"]).resolve()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == file["hashes"]["sha256"]
    assert file["requires-python"] == ">=3.9"
    assert result.facts["fresh"]
    download = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "-q",
        "-d",
        str(bench.root / "got"),
        "shop==1.9",
    ]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    download += ["--index-url", (root / "simple").as_uri()]
    await asyncio.to_thread(subprocess.run, download, check=True, env=environment)
    assert (bench.root / "got" / file["filename"]).is_file()


async def test_the_same_bytes_again_change_nothing_and_others_are_refused(bench: Any) -> None:
    await publish(bench)
    before = {path: path.read_bytes() for path in (bench.root / "published").rglob("*") if path.is_file()}
    assert not (await publish(bench)).facts["fresh"]
    with pytest.raises(StepError) as raised:
        await publish(bench, code="x = 1")
    assert raised.value.error_code == "publish-conflict"
    assert before == {
        path: path.read_bytes() for path in (bench.root / "published").rglob("*") if path.is_file()
    }


async def test_ten_at_once_lose_nothing(bench: Any) -> None:
    versions = [f"1.{number}" for number in range(10)]
    await asyncio.gather(*(publish(bench, version) for version in versions))
    page = json.loads((bench.root / "published" / "simple" / "shop" / "index.json").read_text())
    assert page["versions"] == versions


async def test_a_run_that_died_before_the_index_is_completed(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(root: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publish_directory, "write_index", die)
    with pytest.raises(KeyboardInterrupt):
        await publish(bench)
    monkeypatch.undo()
    assert not (bench.root / "published" / "simple" / "index.json").exists()
    assert not (await publish(bench)).facts["fresh"]
    assert (bench.root / "published" / "simple" / "shop" / "index.html").exists()


async def test_a_run_that_died_in_the_middle_leaves_no_release(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(folder: Any, release: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publish_directory, "write_release", die)
    with pytest.raises(KeyboardInterrupt):
        await publish(bench)
    monkeypatch.undo()
    assert list((bench.root / "published" / "files" / "shop").iterdir()) == []
    assert (await publish(bench)).facts["fresh"]


async def test_what_a_killed_publisher_left_is_no_release_and_goes(bench: Any) -> None:
    """Killed between the last file and the rename: a complete release under a hidden name."""
    await publish(bench, "1.0")
    folder = bench.root / "published" / "files" / "shop"
    shutil.copytree(folder / "1.0", folder / ".part-0123456789ab")
    assert [release.version for release in list_releases(bench.root / "published")] == ["1.0"]
    await publish(bench, "1.1")
    assert sorted(path.name for path in folder.iterdir()) == ["1.0", "1.1"]


async def test_unsigned_files_are_refused(bench: Any) -> None:
    with pytest.raises(StepError) as raised:
        await publish(bench, require_signatures=True)
    assert raised.value.error_code == "publish-unsigned"


@pytest.mark.parametrize(
    ("directory", "code"),
    [
        ("../out", "file-path"),
        ("/tmp/x", "file-path"),
        (".maestro/x", "file-guarded"),
        ("assets", "file-guarded"),
        ("link/x", "file-link"),
    ],
)
async def test_folders_that_are_not_for_this(bench: Any, tmp_path: Any, directory: Any, code: str) -> None:
    (bench.root / "link").symlink_to(tmp_path)
    with pytest.raises(StepError) as raised:
        await publish(bench, directory=directory)
    assert raised.value.error_code == code


# --- deploy


async def deploy(bench: Any, published: Any, **config: Any) -> Any:
    return await bench.run(DeployDirectory, config, {"publish": published.artifact})


def current(bench: Any) -> str:
    script = bench.root / "deployed" / "current" / "bin" / "shop"
    return subprocess.run([script], check=True, capture_output=True, text=True).stdout.strip()


async def test_deploy_switch_and_roll_back(bench: Any) -> None:
    check = {"check": ["{venv}/bin/shop"]}
    first = await deploy(bench, await publish(bench, "1.0"), **check)
    assert current(bench) == "shop 1.0"
    await deploy(bench, await publish(bench, "1.1"))
    assert current(bench) == "shop 1.1"
    broken = await publish(bench, "1.2", code="raise SystemExit('broken on import')")
    with pytest.raises(StepError) as raised:
        await deploy(bench, broken)
    assert raised.value.error_code == "deploy-unhealthy"
    assert "broken on import" in raised.value.fact
    assert "shop-1.1" in raised.value.remedy
    assert current(bench) == "shop 1.1"
    trap = "import sys\nif '/current/' in sys.executable: raise SystemExit('trap')"
    with pytest.raises(StepError, match="trap"):
        await deploy(bench, await publish(bench, "1.3", code=trap))
    assert current(bench) == "shop 1.1"
    again = await deploy(bench, await publish(bench, "1.0"))
    assert again.facts["release"] == first.facts["release"]
    assert current(bench) == "shop 1.0"


async def test_the_check_is_caged(bench: Any) -> None:
    (bench.root / ".maestro" / "key").write_text("SECRET")
    code = (
        "import os\n"
        f"assert not os.path.exists({str(bench.root / '.maestro')!r})\n"
        f"assert not os.path.exists({str(bench.root / 'published')!r})\n"
        "try:\n    open(__file__, 'a')\n    raise SystemExit('writable')\nexcept OSError: pass\n"
    )
    await deploy(bench, await publish(bench, "1.0", code=code))


def test_old_releases_go(tmp_path: Path) -> None:
    names = [f"shop-1.{number}" for number in range(5)]
    for number, name in enumerate(names):
        (tmp_path / "releases" / name).mkdir(parents=True)
        os.utime(tmp_path / "releases" / name, (number, number))
    assert prune(Target(tmp_path, "shop-1.4"), "shop-1.0", keep=2) == ["shop-1.1", "shop-1.2"]
    assert sorted(path.name for path in (tmp_path / "releases").iterdir()) == [names[0], *names[3:]]


async def test_dependencies_come_from_the_index_or_not_at_all(bench: Any) -> None:
    published = await publish(bench, "1.0", requires="helper>=1")
    with pytest.raises(StepError) as raised:
        await deploy(bench, published)
    assert raised.value.error_code == "deploy-install"
    assert not any((bench.root / "deployed" / "releases").iterdir())
    await publish(bench, "1.5", name="helper")
    await deploy(bench, published)
    assert current(bench) == "shop 1.0"


async def test_a_changed_file_in_the_index_is_not_installed(bench: Any) -> None:
    published = await publish(bench)
    name, data = wheel("1.0", "import os")
    (bench.root / "published" / "files" / "shop" / "1.0" / name).write_bytes(data)
    with pytest.raises(StepError) as raised:
        await deploy(bench, published)
    assert raised.value.error_code == "deploy-digest"


async def test_half_an_environment_is_made_anew(bench: Any) -> None:
    published = await publish(bench)
    result = await deploy(bench, published)
    release = bench.root / "deployed" / "releases" / result.facts["release"]
    (release / ".maestro-ready").unlink()
    (release / "bin" / "shop").unlink()
    await deploy(bench, published)
    assert current(bench) == "shop 1.0"


async def test_something_else_than_a_publication(bench: Any) -> None:
    with pytest.raises(StepError) as raised:
        await bench.run(DeployDirectory, {}, {"x": bench.store.put_bytes(b"{}", "application/json")})
    assert raised.value.error_code == "deploy-missing"
