"""What a caged command sees: a root made of an allow-list, and nothing that the list does not name."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from maestro_dagster.errors import SandboxError
from maestro_dagster.sandbox.interface import CagedCommand
from maestro_dagster.sandbox.syscall import build_filter

CAGED_ID = 1000  # user and group inside
PROXY_PORT = 3128
PROXY_SOCKET = "/run/egress.sock"
TMP_BYTES = 512 * 1024**2
SHM_BYTES = 64 * 1024**2
FILE_BYTES = 2 * 1024**3
OPEN_FILES = 1024
SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "localtime",
    "mime.types",
    "protocols",
    "services",
)
ETC_EGRESS = ("ssl/certs", "ssl/openssl.cnf", "ca-certificates", "pki/tls", "pki/ca-trust")
MADE_UP = (
    ("/etc/passwd", b"caged:x:1000:1000::/scratch:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"),
    ("/etc/group", b"caged:x:1000:\nnogroup:x:65534:\n"),
    ("/etc/hosts", b"127.0.0.1 localhost cage\n::1 localhost\n"),
    ("/etc/resolv.conf", b""),
    ("/etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files\n"),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Of the machine and the project, not of the command."""

    root: str  # an empty folder outside, mounted over inside
    hidden: tuple[str, ...]  # never visible, even where a bound folder contains them


def interpreter_prefix() -> str:
    """The installation below the virtual environment: its library is what `python` needs."""
    return str(Path(sys.base_prefix).resolve())


def interpreter() -> str:
    """The interpreter's path, the same inside and outside."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return str(Path(interpreter_prefix(), "bin", name))


@cache
def _system_links() -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"/{name}", str(Path("/", name).readlink())) for name in SYSTEM if Path("/", name).is_symlink()
    )


def _system_binds(*, egress: bool) -> list[tuple[str, str, bool]]:
    folders = ["/usr", *(f"/{name}" for name in SYSTEM if not Path("/", name).is_symlink())]
    folders += [f"/etc/{name}" for name in (*ETC, *(ETC_EGRESS if egress else ()))]
    prefix = interpreter_prefix()
    if not prefix.startswith("/usr/") and prefix != "/usr":
        folders.append(prefix)
    return [(str(Path(folder).resolve()), folder, False) for folder in folders if Path(folder).exists()]


def _base_packages() -> str:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return str(Path(interpreter_prefix(), "lib", version, "site-packages"))


def make_environment(command: CagedCommand, *, proxy: str = "") -> dict[str, str]:
    """The whole environment of the command; nothing of ours is passed on."""
    environment = {
        "PATH": f"{Path(interpreter()).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/scratch",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
    }
    if proxy:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            environment[name] = proxy
        environment["no_proxy"] = environment["NO_PROXY"] = "localhost,127.0.0.1,::1"
    return environment | dict(command.env)


def make_plan(
    command: CagedCommand, layout: Layout, *, switch_user: bool, socket: Path | None
) -> dict[str, Any]:
    """The plan for inside.py, in marshal's types."""
    binds = _system_binds(egress=bool(command.egress))
    named = _named_binds(command, layout.hidden)
    tmpfs = [("/tmp", TMP_BYTES), ("/dev/shm", SHM_BYTES)]  # noqa: S108  paths inside the cage
    if "/scratch" not in command.writable:
        tmpfs.append(("/scratch", min(TMP_BYTES, command.disk_limit)))
    if socket is not None:
        named.append((str(socket), PROXY_SOCKET, True))
    proxy = f"http://127.0.0.1:{PROXY_PORT}" if socket else ""
    return {
        "isolated": True,
        "root": layout.root,
        "links": list(_system_links()),
        "files": list(MADE_UP),
        "tmpfs": tmpfs,
        "binds": sorted(binds, key=_depth) + sorted(named, key=_depth),
        "hide": [_base_packages(), *_hidden_inside(binds + named, layout.hidden)],
        "switch_user": switch_user,
        "uid": CAGED_ID,
        "argv": list(command.argv),
        "env": make_environment(command, proxy=proxy),
        "cwd": command.cwd,
        "limits": make_limits(command, isolated=True),
        "memory_limit": command.memory_limit,
        "relay": (PROXY_PORT, PROXY_SOCKET) if socket else None,
        "filter": build_filter(os.uname().machine),
    }


def make_plain_plan(command: CagedCommand, scratch: Path, proxy: str) -> dict[str, Any]:
    """Without namespaces the paths of the cage do not exist: each is replaced by the one it stands for."""
    paths = {"/scratch": scratch, **command.writable, **command.read_only}
    environment = make_environment(command, proxy=proxy)
    return {
        "isolated": False,
        "argv": [_translate(value, paths) for value in command.argv],
        "env": {name: _translate(value, paths) for name, value in environment.items()},
        "cwd": _translate(command.cwd, paths),
        "limits": make_limits(command, isolated=False),
        "relay": None,
        "memory_limit": 0,
    }


def make_limits(command: CagedCommand, *, isolated: bool) -> list[tuple[int, int]]:
    """(resource, value) pairs. Data bounds memory, not address space: runtimes reserve more than they use."""
    limits = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, command.memory_limit),
        (resource.RLIMIT_AS, max(4 * command.memory_limit, 16 * 1024**3)),
        (resource.RLIMIT_CPU, int(command.time_limit * (os.cpu_count() or 1)) + 5),
        (resource.RLIMIT_FSIZE, min(FILE_BYTES, command.disk_limit)),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ]
    if isolated:  # outside, it would count the operator's other processes too
        limits.append((resource.RLIMIT_NPROC, command.process_limit))
    return limits


def _named_binds(command: CagedCommand, hidden: Iterable[str]) -> list[tuple[str, str, bool]]:
    found = []
    for paths, writable in ((command.read_only, False), (command.writable, True)):
        for path, source in paths.items():
            _check_target(path)
            real = str(source.resolve())
            if not source.exists():
                raise SandboxError(
                    f"there is nothing at {source} to show as {path}",
                    code="sandbox-setup",
                    remedy="check that the input was made",
                )
            # One that merely contains a hidden folder is shown with a hole in it; see _hidden_inside.
            if any(_contains(real, secret) if writable else real == secret for secret in hidden):
                raise SandboxError(
                    f"{path} would show a hidden folder of the project",
                    place=str(source),
                    code="sandbox-setup",
                    remedy="name a narrower folder",
                )
            found.append((real, path, writable))
    return found


def _check_target(path: str) -> None:
    parts = path.split("/")
    if not path.startswith("/") or path == "/" or ".." in parts or parts[1] in {"proc", "dev", "etc", "sys"}:
        raise SandboxError(
            f"{path} cannot be a path inside the cage",
            code="sandbox-setup",
            remedy="use a path below /inputs, /scratch or /tools",
        )


def _hidden_inside(binds: Iterable[tuple[str, str, bool]], hidden: Iterable[str]) -> list[str]:
    """Where a hidden folder would appear inside, because a bound folder contains it."""
    return [
        path + secret[len(source) :]
        for source, path, _ in binds
        for secret in hidden
        if _contains(source, secret) and source != secret
    ]


def _contains(outer: str, inner: str) -> bool:
    return outer == inner or inner.startswith(outer.rstrip("/") + "/")


def _depth(bind: tuple[str, str, bool]) -> tuple[int, str]:
    return bind[1].count("/"), bind[1]


def _translate(value: str, paths: Mapping[str, Path]) -> str:
    import re

    names = "|".join(re.escape(path) for path in sorted(paths, key=len, reverse=True))
    pattern = rf"(?:(?<=^)|(?<=[=:,\s]))({names})(?=$|[/=:,\s])"
    return re.sub(pattern, lambda match: str(paths[match.group(1)]), value)
