"""Folders of unpacked wheels, made once per lock and bound into the cage read-only.

Fetching runs no foreign code: pip downloads wheels only, each checked against the lock's hashes, and a
wheel is unpacked as the archive it is. What compiles it does so inside the cage.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TextIO

from maestro_dagster.errors import StepError
from maestro_dagster.steps.foreign_code import ForeignCall, run_foreign
from maestro_dagster.steps.interface import StepContext
from maestro_dagster.steps.wheel_lock import Pin
from maestro_dagster.telemetry.span import open_call

FETCH_SECONDS = 300
MOST_BYTES = 2 * 1024**3
USED = ".wheels.json"  # in the folder: which wheels it was made of


async def open_wheel_folder(context: StepContext, pins: Sequence[Pin]) -> Path:
    """A folder to put on PYTHONPATH with exactly these packages. Safe under concurrency.

    Raises StepError (`wheel-fetch`, retryable; `wheel-invalid`).
    """
    folder = context.project.cache / "wheels" / _key(pins)
    ready = folder / "site"
    if _is_made(ready):
        return ready
    async with _locked(folder):
        if _is_made(ready):  # by somebody else while we waited
            return ready
        with tempfile.TemporaryDirectory(dir=folder, prefix="part-") as part:
            wheels, site = Path(part, "wheels"), Path(part, "site")
            await _download(pins, wheels, context)
            await asyncio.to_thread(_unpack, wheels, pins, site)
            await _compile(context, site)
            _finish(site, ready)
    return ready


def read_used_wheels(folder: Path) -> dict[str, str]:
    """Package name to the digest of the wheel that was unpacked."""
    found: dict[str, str] = json.loads((folder / USED).read_text(encoding="utf-8"))
    return found


def _is_made(ready: Path) -> bool:
    return ready.is_dir()


def _finish(site: Path, ready: Path) -> None:
    """The folder appears as a whole, or not at all."""
    site.rename(ready)


def _key(pins: Sequence[Pin]) -> str:
    tag = f"{sys.implementation.cache_tag}-{os.uname().machine}"
    text = "\n".join([tag, *sorted(pin.requirement for pin in pins)])
    return sha256(text.encode()).hexdigest()[:32]


@contextlib.asynccontextmanager
async def _locked(folder: Path) -> AsyncIterator[None]:
    with _open_lock(folder) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.1)
        yield


def _open_lock(folder: Path) -> TextIO:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(f"{folder}.lock").open("w", encoding="ascii")


def _write_lock(pins: Sequence[Pin], wheels: Path) -> Path:
    wheels.mkdir()
    lock = wheels / "lock.txt"
    lock.write_text("\n".join(pin.requirement for pin in pins) + "\n", encoding="utf-8")
    return lock


async def _download(pins: Sequence[Pin], wheels: Path, context: StepContext) -> None:
    """Wheels only, hashes checked, by pip with the operator's configuration (mirrors, proxies)."""
    lock = _write_lock(pins, wheels)
    options: tuple[str, ...] = (
        "--no-deps",
        "--only-binary",
        ":all:",
        "--require-hashes",
        "--no-input",
        "--quiet",
    )
    options += ("--disable-pip-version-check", "--no-python-version-warning", "--progress-bar", "off")
    context.log(f"fetching {len(pins)} wheels")
    with open_call("pip download", process__executable__name="pip"):
        await _call_pip(context, "download", *options, "--dest", str(wheels), "-r", str(lock))


async def _call_pip(context: StepContext, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *find_pip(),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            said, _ = await process.communicate()
    except TimeoutError:
        raise _fetch_error(f"took longer than {FETCH_SECONDS} s", context) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise _fetch_error(said.decode("utf-8", "replace").strip(), context)


def find_pip() -> tuple[str, ...]:
    """The pip of our environment, or the one that Python carries for `ensurepip`."""
    from importlib.util import find_spec

    if find_spec("pip") is not None:
        return (sys.executable, "-I", "-m", "pip")
    spec = find_spec("ensurepip")
    bundled = sorted(Path(spec.origin).parent.glob("_bundled/pip-*.whl")) if spec and spec.origin else []
    if not bundled:
        raise StepError(
            "there is no pip to fetch wheels with",
            remedy="install pip into the environment of Maestro",
            code="pip-missing",
        )
    return (sys.executable, str(bundled[-1] / "pip"))


def _fetch_error(said: str, context: StepContext) -> StepError:
    if "DO NOT MATCH THE HASHES" in said:
        return StepError(
            "a wheel does not have the hash that the lock promises",
            place=f"step {context.step}",
            remedy="compare the lock with its source: one of the two was changed",
            code="wheel-hash",
        )
    return StepError.transient(
        f"wheels cannot be fetched: {said[-600:]}",
        place=f"step {context.step}",
        remedy="check pip's configuration and the network; the lock names versions and hashes",
        code="wheel-fetch",
    )


def _unpack(fetched: Path, pins: Sequence[Pin], site: Path) -> None:
    allowed = {value: pin.name for pin in pins for value in pin.hashes}
    used: dict[str, str] = {}
    site.mkdir(mode=0o755)
    budget = MOST_BYTES
    for wheel in sorted(fetched.glob("*.whl")):
        with wheel.open("rb") as file:
            digest = "sha256:" + sha256(file.read()).hexdigest()
        if digest not in allowed:
            raise _invalid(wheel.name, "its hash is not in the lock")
        used[allowed[digest]] = digest
        with zipfile.ZipFile(wheel) as archive:
            budget -= sum(entry.file_size for entry in archive.infolist())
            if budget < 0:
                raise _invalid(wheel.name, "it is too large")
            for entry in archive.infolist():
                _unpack_entry(archive, entry, site, wheel.name)
    (site / USED).write_text(json.dumps(used, sort_keys=True), encoding="utf-8")
    for folder, _, _ in os.walk(site):
        Path(folder).chmod(0o755)


def _unpack_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, site: Path, wheel: str) -> None:
    """Libraries only (PEP 427): scripts, headers and data of a wheel are not needed on a path."""
    parts = entry.filename.split("/")
    if entry.is_dir():
        return
    if ".." in parts or entry.filename.startswith("/") or stat.S_ISLNK(entry.external_attr >> 16):
        raise _invalid(wheel, f"it holds {entry.filename!r}")
    if parts[0].endswith(".data"):
        if len(parts) < 3 or parts[1] not in {"purelib", "platlib"}:  # noqa: PLR2004  x.data/<scheme>/<path>
            return
        parts = parts[2:]
    path = site.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
    path.chmod(0o755 if path.suffix == ".so" else 0o644)


async def _compile(context: StepContext, site: Path) -> None:
    """Byte code once, for all read-only uses. It never looks at times, so it stays valid."""
    call = ForeignCall(
        argv=("python3", "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/site"),
        writable={"/site": site},
        time_limit=FETCH_SECONDS,
    )
    await run_foreign(context, call)  # files for other versions of Python fail to compile: no matter


def _invalid(wheel: str, why: str) -> StepError:
    return StepError(
        f"the wheel {wheel} is refused: {why}",
        remedy="make the lock again from packages that you trust",
        code="wheel-invalid",
    )
