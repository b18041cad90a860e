# Importing pathlib would cost a third of the time that a cage needs to start.
# ruff: noqa: PTH102, PTH103, PTH110, PTH112, PTH120, PTH123, PTH208, PTH211
"""The first process of a cage: builds what the command will see, gives every right away, and runs it.

Started by cage.py as `python -I -S` below `unshare`, where it is process 1 of its pid namespace. It uses
the standard library only and imports little: its start is the start of every caged step. The plan comes
over the control socket as marshal bytes and never stands in an argument that the command could read.

It answers with lines: `S` the command starts, `X <code>` it ended, `K <reason>` it was killed for a limit,
`E <stage>: <reason>` the cage could not be built. When it ends, the kernel kills whatever is left.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import select
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

# From the kernel's headers: mount(2), mount_setattr(2), prctl(2), capset(2).
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
SIOCSIFFLAGS, IFF_UP_RUNNING = 0x8914, 0x41
SIGKILL = 9
LOOK_EVERY = 0.2  # seconds between two looks at orphans and memory

libc = ctypes.CDLL(None, use_errno=True)


class BuildError(Exception):
    """The cage cannot be built; the text says at which stage and why."""


def check(result: int, stage: str) -> int:
    if result < 0:
        raise BuildError(f"{stage}: {os.strerror(ctypes.get_errno())}")
    return result


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    done = libc.mount(
        source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode() or None
    )
    check(done, f"mount {target or source}")


def bind(source: str, target: str) -> None:
    done = libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(MS_BIND | MS_REC), None)
    check(done, f"bind {source} to {target}")


def restrict(target: str, attributes: int, *, recursive: bool = True) -> None:
    """Sets mount attributes on a whole subtree; a plain remount would leave mounts below it writable."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    done = libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(target), flags, ctypes.byref(wanted), 32)
    check(done, f"restrict {target}")


def make_place(target: str, *, folder: bool) -> None:
    """Makes the empty folder or file that something is mounted on."""
    if folder:
        os.makedirs(target, exist_ok=True)
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if not os.path.lexists(target):
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def build_root(plan: Mapping[str, Any]) -> None:
    """A new root from nothing: what the plan does not name does not exist for the command."""
    root = plan["root"]
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=16m")
    for path, target in plan["links"]:
        make_place(os.path.dirname(root + path), folder=True)
        os.symlink(target, root + path)
    for path, content in plan["files"]:
        make_place(root + path, folder=False)
        with open(root + path, "wb") as file:
            file.write(content)
    make_devices(root)
    for path, size in plan["tmpfs"]:
        make_place(root + path, folder=True)
        options = f"mode=1777,size={size},nr_inodes=200000"
        mount("tmpfs", root + path, "tmpfs", MS_NOSUID | MS_NODEV, options)
    for source, path, writable in plan["binds"]:
        make_place(root + path, folder=os.path.isdir(source))
        bind(source, root + path)
        restrict(root + path, ATTR_NOSUID | ATTR_NODEV | (0 if writable else ATTR_RDONLY))
    for path in plan["hide"]:
        if os.path.isdir(root + path):
            mount("tmpfs", root + path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0555,size=4k")
            restrict(root + path, ATTR_RDONLY)
    make_proc(root)
    restrict(root, ATTR_RDONLY, recursive=False)


def make_devices(root: str) -> None:
    """Device nodes cannot be made in a user namespace; the harmless ones are bound."""
    dev = root + "/dev"
    os.makedirs(dev)
    mount("tmpfs", dev, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=64k")
    for name in ("null", "zero", "full", "random", "urandom"):
        make_place(f"{dev}/{name}", folder=False)
        bind(f"/dev/{name}", f"{dev}/{name}")
        restrict(f"{dev}/{name}", ATTR_NOSUID | ATTR_NOEXEC)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink("/proc/self/fd" + target, f"{dev}/{name}")
    os.mkdir(dev + "/shm")
    restrict(dev, ATTR_RDONLY, recursive=False)


def make_proc(root: str) -> None:
    proc = root + "/proc"
    os.makedirs(proc, exist_ok=True)
    mount("proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    # No further user namespaces: inside one the command would have all capabilities again.
    with open(proc + "/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
    for name in ("sys", "sysrq-trigger", "irq", "bus", "fs"):
        if os.path.exists(f"{proc}/{name}"):
            bind(f"{proc}/{name}", f"{proc}/{name}")
            restrict(f"{proc}/{name}", ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC)


def enter_root(root: str) -> None:
    """Makes `root` the root and lets go of the old one, so that no path leads back (pivot_root(2))."""
    os.chdir(root)
    number = SYS_PIVOT_ROOT[os.uname().machine]
    check(libc.syscall(number, b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "detach the old root")
    os.chdir("/")


def raise_loopback() -> None:
    """A new network namespace has one interface, down; tests of servers need 127.0.0.1."""
    handle = check(libc.socket(2, 1, 0), "socket")
    request = b"lo".ljust(16, b"\0") + IFF_UP_RUNNING.to_bytes(2, sys.byteorder) + bytes(22)
    check(libc.ioctl(handle, ctypes.c_ulong(SIOCSIFFLAGS), request), "raise lo")
    os.close(handle)


def give_up_rights(plan: Mapping[str, Any]) -> None:
    """No capability now or ever again, no keyring of the operator, no system call of the filter's list."""
    libc.syscall(SYS_KEYCTL[os.uname().machine], 1, None, 0, 0, 0)  # a new, empty session keyring
    if plan["switch_user"]:
        os.setgroups([])
        os.setresgid(plan["uid"], plan["uid"], plan["uid"])
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # beyond the kernel's last capability
    if plan["switch_user"]:
        os.setresuid(plan["uid"], plan["uid"], plan["uid"])
    libc.prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    check(libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())), "drop capabilities")
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        sets = [line.split()[1] for line in file if line.startswith("Cap")]
    if any(int(value, 16) for value in sets):
        raise BuildError("drop capabilities: some are left")
    check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
    # Changing the user cleared it: without it, this process would outlive a killed `unshare`.
    check(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "death signal")


def set_filter(program: bytes) -> None:
    """Installs the seccomp filter (seccomp(2)); `program` is an array of struct sock_filter."""
    buffer = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    described = Program(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    check(libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(described), 0, 0), "system call filter")


def close_other_files(keep: int) -> None:
    os.closerange(3, keep)
    os.closerange(keep + 1, 65536)


def start_command(plan: Mapping[str, Any], control: int) -> int:
    """Forks the command; its failure to start is told as exit code 126 or 127, as a shell would."""
    child = os.fork()
    if child:
        return child
    try:
        os.close(control)
        os.setsid()
        set_limits(plan["limits"])
        os.chdir(plan["cwd"])
        os.umask(0o022)
        os.execvpe(plan["argv"][0], plan["argv"], plan["env"])  # noqa: S606  no shell is the point
    except OSError as error:
        os.write(2, f"{plan['argv'][0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def set_limits(limits: Sequence[tuple[int, int]]) -> None:
    import resource

    for number, value in limits:
        _, hard = resource.getrlimit(number)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (bound, bound))


def start_relay(port: int, path: str, control: int) -> None:
    """A process that carries TCP connections of the cage to the unix socket of the filtering proxy."""
    import _socket

    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    if os.fork():
        listener.close()
        return
    os.close(control)
    os.setsid()
    import _thread

    def pump(source: Any, target: Any) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(_socket.SHUT_WR)
        except OSError:
            pass  # the other side is gone; its own pump ends the same way

    while True:
        handle, _ = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001  the C class has no other
        inner = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, handle)
        outer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            outer.connect(path)
            _thread.start_new_thread(pump, (inner, outer))
            _thread.start_new_thread(pump, (outer, inner))
        except (OSError, RuntimeError):
            inner.close()
            outer.close()


def used_memory() -> int:
    """Bytes that belong to processes alone, summed over this pid namespace."""
    pages = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/statm", "rb") as file:
                    fields = file.read().split()
                pages += int(fields[1]) - int(fields[2])
            except (OSError, IndexError):
                continue  # ended meanwhile
    return pages * os.sysconf("SC_PAGE_SIZE")


def watch(child: int, control: int, memory_limit: int, send: Callable[[str], None]) -> None:
    """Waits for the command, buries orphans, and ends everything when the outside is gone."""
    poll = select.poll()
    handle = os.pidfd_open(child)
    poll.register(handle, select.POLLIN)
    poll.register(control, select.POLLIN)
    looked = time.monotonic()
    while True:
        ready = [which for which, _ in poll.poll(LOOK_EVERY * 1000)]
        if control in ready:
            return  # a word or the end of the stream both mean: stop
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                break
            if pid == child:
                send(f"X {os.waitstatus_to_exitcode(status)}")
                return
        if memory_limit and time.monotonic() - looked >= LOOK_EVERY:
            looked = time.monotonic()
            if used_memory() > memory_limit:
                send("K memory")
                return


def bury_all(*, isolated: bool) -> None:
    """Kills whatever is left and waits for it, so that its use is accounted; we are everyone's reaper."""
    while True:
        # Process 1 of a pid namespace is not hit by its own -1. Outside, the descendants have to be found.
        alive = [-1] if isolated else descendants(os.getpid())
        for pid in alive:
            try:
                os.kill(pid, SIGKILL)
            except ProcessLookupError:
                continue
        try:
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            children.setdefault(parent, []).append(int(name))
    found, queue = [], list(children.get(root, ()))
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue.extend(children.get(pid, ()))
    return found


def read_plan(control: int) -> dict[str, Any]:
    def read(size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = os.read(control, size - len(data))
            if not piece:
                os._exit(1)  # the outside is gone
            data += piece
        return data

    plan: dict[str, Any] = marshal.loads(read(int.from_bytes(read(8), "big")))  # noqa: S302  from cage.py
    return plan


def main() -> NoReturn:
    control, *streams = map(int, sys.argv[1:])
    for number, handle in enumerate(streams, start=1):
        os.dup2(handle, number)  # stdout, stderr
    os.write(control, b"R")  # cage.py learns our process id from the credentials of this byte
    plan = read_plan(control)

    def send(line: str) -> None:
        os.write(control, line.encode(errors="replace") + b"\n")

    isolated = plan["isolated"]
    try:
        close_other_files(control)
        if isolated:
            if plan["switch_user"]:
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
            check(libc.sethostname(b"cage", 4), "host name")
            raise_loopback()
            build_root(plan)
            enter_root(plan["root"])
            give_up_rights(plan)
        else:
            check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
        if isolated:
            set_filter(plan["filter"])
        if plan["relay"]:
            port, path = plan["relay"]
            start_relay(port, path, control)
        send("S")
        watch(start_command(plan, control), control, plan["memory_limit"] if isolated else 0, send)
    except (BuildError, OSError) as error:
        send(f"E {error}")
    bury_all(isolated=isolated)
    os._exit(0)
