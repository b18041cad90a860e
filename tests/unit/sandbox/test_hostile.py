"""What a hostile command tries, and does not get. Each runs for real in a real cage."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.errors import SandboxError
from maestro_dagster.sandbox.cage import LinuxCage
from maestro_dagster.sandbox.interface import CagedCommand

pytestmark = pytest.mark.slow

HUNT = """
import os, sys
needles = [word.encode() for word in sys.argv[1:]]
found = []
def look(path):
    try:
        with open(path, 'rb') as file:
            data = file.read(1 << 20)
        found.extend((path, needle) for needle in needles if needle in data)
    except OSError:
        pass
for top, folders, files in os.walk('/', followlinks=False):
    if top == '/':
        folders[:] = [f for f in folders if f not in ('usr', 'proc')]
    for name in files + folders:
        if 'maestro' in name:
            found.append((top, name))
    for name in files:
        look(os.path.join(top, name))
for pid in filter(str.isdigit, os.listdir('/proc')):
    if int(pid) != os.getpid():
        for name in ('environ', 'cmdline', 'maps'):
            look(f'/proc/{pid}/{name}')
        for name in ('root', 'cwd'):
            for tail in ('', '/..', '/../..', '/../../..'):
                with __import__('contextlib').suppress(OSError):
                    if set(os.listdir(f'/proc/{pid}/{name}{tail}')) - set(os.listdir('/')):
                        found.append((f'/proc/{pid}/{name}{tail}', 'other root'))
print(found)
"""


async def test_the_state_folder_cannot_be_found(
    run_python: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAESTRO_SECRET", "THE-ENVIRONMENT")
    (tmp_path / "note").write_text("an input")
    needles = ("THE-PRIVATE-KEY", "THE-JOURNAL", "THE-STORE", "THE-ENVIRONMENT")
    result = await run_python(HUNT, arguments=needles, read_only={"/inputs/note": tmp_path / "note"})
    assert result.stdout.decode().strip() == "[]", result.stderr


async def test_the_hunt_finds_what_is_given(run_python: Any, home: Path) -> None:
    """The counterpart: the same hunt does find a key that somebody binds by mistake."""
    result = await run_python(
        HUNT, arguments=("THE-PRIVATE-KEY",), read_only={"/inputs/key": home / "keys" / "maestro.pem"}
    )
    assert b"/inputs/key" in result.stdout


@pytest.mark.parametrize("above", [0, 1])
async def test_a_folder_that_is_hidden_or_contains_it_shows_nothing(
    cage: LinuxCage, home: Path, above: Any
) -> None:
    folder = [home, home.parent][above]
    command = CagedCommand(argv=("find", "/inputs", "-type", "f"), read_only={"/inputs/project": folder})
    if above == 0:
        with pytest.raises(SandboxError) as raised:
            await cage.run(command)
        assert raised.value.error_code == "sandbox-setup"
    else:
        assert (await cage.run(command)).stdout == b""


async def test_only_its_own_processes_exist(run_python: Any) -> None:
    result = await run_python("import os; print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()))")
    assert result.stdout.decode().strip() == "[1, 2]"


async def test_no_file_of_ours_is_open_in_it(run_python: Any, home: Path) -> None:
    with (home / "journal.sqlite").open() as file:
        os.set_inheritable(file.fileno(), True)
        result = await run_python("import os; print(sorted(os.listdir('/proc/self/fd')))")
    assert result.stdout.decode().strip() == "['0', '1', '2', '3']"  # 3 is the listing itself


async def test_the_process_that_guards_it_cannot_be_touched(run_python: Any) -> None:
    result = await run_python(
        """
        import ctypes, os, signal
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.ptrace(16, 1, 0, 0), libc.ptrace(0, 0, 0, 0))
        for path in ('/proc/1/mem', '/proc/1/fd/3', '/proc/1/environ', '/proc/1/root/etc/shadow'):
            try:
                open(path, 'rb+').read(1)
                print('opened', path)
            except OSError as error:
                print(type(error).__name__)
        os.kill(1, signal.SIGKILL)
        os.kill(1, signal.SIGSTOP)
        print('alive')
        """
    )
    lines = result.stdout.decode().splitlines()
    assert lines[0] == "-1 -1"
    assert lines[-1] == "alive"
    assert not any(line.startswith("opened") for line in lines)
    assert result.returncode == 0


async def test_a_server_of_the_host_cannot_be_reached(run_python: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        abstract = socket.socket(socket.AF_UNIX)
        abstract.bind(f"\0maestro-test-{os.getpid()}")
        abstract.listen()
        result = await run_python(
            f"""
            import socket
            for family, address in (
                (socket.AF_INET, ('127.0.0.1', {port})),
                (socket.AF_UNIX, chr(0) + 'maestro-test-{os.getpid()}'),
                (socket.AF_INET, ('192.0.2.1', 80)),
                (socket.AF_INET6, ('2001:db8::1', 80)),
            ):
                with socket.socket(family) as client:
                    client.settimeout(3)
                    try:
                        client.connect(address)
                        print('connected')
                    except OSError as error:
                        print(error.strerror)
            for family in (socket.AF_VSOCK, socket.AF_PACKET, 38):
                try:
                    socket.socket(family, socket.SOCK_STREAM)
                    print('made', family)
                except OSError as error:
                    print(error.strerror)
            """
        )
        abstract.close()
    lines = result.stdout.decode().splitlines()
    assert len(lines) == 7
    assert not any(line.startswith(("connected", "made")) for line in lines), lines


async def test_its_own_loopback_works(run_python: Any) -> None:
    result = await run_python(
        """
        import socket
        server = socket.create_server(('127.0.0.1', 0))
        socket.create_connection(server.getsockname()).close()
        print('ok')
        """
    )
    assert result.stdout == b"ok\n"


async def test_nothing_outside_its_scratch_can_be_written(run_python: Any) -> None:
    result = await run_python(
        """
        import os
        for path in ('/x', '/usr/x', '/etc/passwd', '/bin/x', '/dev/x', '/run', '/proc/sysrq-trigger',
                     '/proc/sys/kernel/core_pattern', '/proc/sys/kernel/hostname',
                     '/proc/sys/user/max_user_namespaces'):
            try:
                open(path, 'w').write('1')
                print('wrote', path)
            except OSError:
                pass
        for path in ('/', '/usr', '/etc', '/dev', '/proc/sys', '/proc/irq'):
            if not os.statvfs(path).f_flag & os.ST_RDONLY:
                print('not read-only', path)
        for path in ('/scratch/x', '/tmp/x', '/dev/shm/x', '/dev/null'):
            open(path, 'w').write('1')
        """
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


async def test_inputs_are_read_only_and_links_lead_nowhere(run_python: Any, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "data").write_text("given")
    inputs.chmod(0o777)
    (inputs / "data").chmod(0o666)
    (inputs / "way-out").symlink_to("/etc/shadow")
    (inputs / "up").symlink_to("../../../../..")
    result = await run_python(
        """
        import os
        print(open('/inputs/a/data').read())
        for act in (lambda: open('/inputs/a/data', 'w'), lambda: os.unlink('/inputs/a/data'),
                    lambda: os.chmod('/inputs/a/data', 0o777), lambda: open('/inputs/a/way-out')):
            try:
                act()
                print('done')
            except OSError:
                pass
        print(sorted(os.listdir('/inputs/a/up')) == sorted(os.listdir('/')))
        """,
        read_only={"/inputs/a": inputs},
    )
    assert result.stdout.decode().split() == ["given", "True"]
    assert (inputs / "data").read_text() == "given"


async def test_rights_cannot_be_won_back(run_python: Any) -> None:
    result = await run_python(
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        tries = {
            'setuid': lambda: libc.setuid(0),
            'setgid': lambda: libc.setgid(0),
            'remount': lambda: libc.mount(b'none', b'/usr', None, 32 | 4096, None),
            'bind': lambda: libc.mount(b'/', b'/tmp', None, 4096, None),
            'unmount': lambda: libc.umount2(b'/usr', 2),
            'user namespace': lambda: libc.unshare(0x10000000),
            'mount namespace': lambda: libc.unshare(0x00020000),
            'clone with user namespace': lambda: libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0),
            'chroot': lambda: libc.chroot(b'/tmp'),
            'keyring': lambda: libc.syscall(250, 0, -3, 1),
            'bpf': lambda: libc.syscall(321, 0, 0, 0),
            'node': lambda: libc.mknod(b'/tmp/disk', 0o060666, (254 << 8)),
            'second numbers': lambda: libc.syscall(0x40000000 | 165, b'none', b'/usr', 0, 32, 0),
            'priority': lambda: os.nice(-5),
        }
        for name, act in tries.items():
            try:
                if act() != -1:
                    print('won', name)
            except OSError:
                pass
        os.system('cp /bin/sh /tmp/sh; chmod 6755 /tmp/sh; /tmp/sh -pc "id -u"')
        """
    )
    assert result.stdout.decode() == "1000\n", result.stderr


async def test_a_signal_reaches_nobody_outside(run_python: Any) -> None:
    line = "import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", line]) as victim:  # noqa: ASYNC220  it does not wait
        try:
            result = await run_python(
                f"""
                import os, signal
                for pid in ({victim.pid}, {os.getpid()}, -{victim.pid}):
                    try:
                        os.kill(pid, signal.SIGKILL)
                        print('hit')
                    except OSError as error:
                        print(error.strerror)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.kill(-1, signal.SIGTERM)
                """
            )
            assert b"hit" not in result.stdout
            assert victim.poll() is None
        finally:
            victim.kill()


async def test_a_fork_bomb_is_bounded(run_python: Any) -> None:
    result = await run_python(
        """
        import os, time
        made = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                made += 1
        except BlockingIOError:
            print(made)
        """,
        process_limit=40,
    )
    assert 20 < int(result.stdout) < 40
    assert result.wall_seconds < 10


async def test_a_bomb_that_never_stops_ends_at_its_time(run_python: Any) -> None:
    result = await run_python(
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        process_limit=30,
        time_limit=1.0,
    )
    assert result.timed_out
    assert result.wall_seconds < 5


async def test_memory_of_one_process_is_bounded(run_python: Any) -> None:
    result = await run_python("x = bytearray(400 << 20)", memory_limit=200 << 20)
    assert result.returncode == 1
    assert b"MemoryError" in result.stderr


async def test_memory_of_all_processes_is_bounded(run_python: Any) -> None:
    result = await run_python(
        """
        import os, time
        for _ in range(5):
            if os.fork() == 0:
                x = bytearray(b'1') * (60 << 20)
                time.sleep(60)
        time.sleep(60)
        """,
        memory_limit=200 << 20,
    )
    assert result.killed == "memory"
    assert result.returncode == -9


async def test_a_full_disk_is_bounded_in_every_writable_place(run_python: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    result = await run_python(
        """
        piece = bytes(1 << 20)
        for place in ('/scratch', '/tmp', '/dev/shm', '/out'):
            written = 0
            try:
                for number in range(40):
                    with open(f'{place}/{number}', 'wb') as file:
                        for _ in range(30):
                            written += file.write(piece)
                if place != '/out':
                    print('endless', place)
            except OSError as error:
                print(error.strerror)
        import time
        time.sleep(60)
        """,
        writable={"/out": tmp_path / "out"},
        disk_limit=64 << 20,
    )
    assert result.killed == "disk"
    assert b"endless" not in result.stdout
    assert result.wall_seconds < 20


async def test_one_file_is_bounded(run_python: Any, tmp_path: Path) -> None:
    result = await run_python(
        "open('/out/big', 'wb').write(bytes(20 << 20))", writable={"/out": tmp_path}, disk_limit=10 << 20
    )
    assert result.returncode != 0
    assert (tmp_path / "big").stat().st_size <= 10 << 20


async def test_endless_output_is_cut_and_then_ended(run_python: Any) -> None:
    result = await run_python(
        "import sys\nwhile True: sys.stdout.write('x' * 65536)", output_limit=100_000, time_limit=20.0
    )
    assert result.killed == "output"
    assert result.truncated
    assert result.stdout == b"x" * 100_000


async def test_long_output_is_cut_and_the_command_ends_as_it_likes(run_python: Any) -> None:
    result = await run_python("print('x' * 300_000); raise SystemExit(7)", output_limit=100_000)
    assert (result.returncode, result.truncated, len(result.stdout)) == (7, True, 100_000)


async def test_who_ignores_signals_dies_at_the_time_limit(run_python: Any) -> None:
    result = await run_python(
        """
        import signal, time
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        print('ready', flush=True)
        while True:
            time.sleep(1)
        """,
        time_limit=1.0,
    )
    assert result.timed_out
    assert result.stdout == b"ready\n"
    assert result.wall_seconds < 3


ORPHAN = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.5)
        open(sys.argv[1] + '/alive', 'w').write('x')
        time.sleep(60)
    os._exit(0)
os.wait()
print('parent ends')
"""


@pytest.mark.parametrize("isolation", ["namespaces", "none"])
async def test_a_daemon_does_not_survive(run_python: Any, tmp_path: Path, isolation: str) -> None:
    result = await run_python(ORPHAN, arguments=("/out",), writable={"/out": tmp_path}, isolation=isolation)
    assert result.stdout == b"parent ends\n"
    assert result.wall_seconds < 1.0
    await asyncio.sleep(0.8)
    assert not (tmp_path / "alive").exists()


@pytest.mark.parametrize("isolation", ["namespaces", "none"])
async def test_cancelling_kills_everything(cage: LinuxCage, tmp_path: Path, isolation: str) -> None:
    code = (
        "import os, time\nos.fork()\nopen('/out/%d' % os.getpid(), 'w')\n"
        "time.sleep(1)\nopen('/out/late', 'w')"
    )
    code = code.replace("/out", str(tmp_path)) if isolation == "none" else code
    command = CagedCommand(argv=("python3", "-c", code), writable={"/out": tmp_path}, isolation=isolation)
    task = asyncio.create_task(cage.run(command))
    while len(list(tmp_path.iterdir())) < 2:  # noqa: ASYNC110, ASYNC240  files are what it can make
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(1.2)
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize("isolation", ["namespaces", "none"])
async def test_nothing_outlives_a_killed_worker(tmp_path: Path, isolation: str, repository: Path) -> None:
    """SIGKILL of our own process: no finaliser runs, the cage must notice by itself."""
    code = f"""
import asyncio
from pathlib import Path
from maestro_dagster.sandbox.cage import open_cage
from maestro_dagster.sandbox.interface import CagedCommand
out = Path({str(tmp_path)!r})
line = "touch /out/started; sleep 1; touch /out/late"
asyncio.run(open_cage().run(CagedCommand(argv=("sh", "-c", line.replace(";", " ; ")),
    writable={{"/out": out}}, isolation={isolation!r})))
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=repository) as worker:  # noqa: ASYNC220
        deadline = time.monotonic() + 20
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline
            assert worker.poll() is None
            await asyncio.sleep(0.02)
        worker.send_signal(signal.SIGKILL)
    await asyncio.sleep(0.8)
    assert not (tmp_path / "late").exists()


async def test_a_trap_left_in_the_writable_folder_does_not_redirect_us(
    run_python: Any, tmp_path: Path
) -> None:
    """Writable folders are given to the caged user and taken back: a link must not move that."""
    target = tmp_path / "precious"
    target.write_text("x")
    out = tmp_path / "out"
    out.mkdir()
    before = target.stat()
    await run_python(f"import os; os.symlink({str(target)!r}, '/out/link')", writable={"/out": out})
    assert (target.stat().st_uid, target.stat().st_mode) == (before.st_uid, before.st_mode)
    assert out.stat().st_uid == os.geteuid()
    assert (out / "link").lstat().st_uid == os.geteuid()


async def test_a_command_that_is_not_there_says_so(cage: LinuxCage) -> None:
    result = await cage.run(CagedCommand(argv=("no-such-command",)))
    assert result.returncode == 127
    assert result.stderr == b"no-such-command: No such file or directory\n"


async def test_a_missing_input_is_a_coded_error(cage: LinuxCage, tmp_path: Path) -> None:
    with pytest.raises(SandboxError) as raised:
        await cage.run(CagedCommand(argv=("true",), read_only={"/inputs/x": Path(tmp_path, "gone")}))
    assert raised.value.error_code == "sandbox-setup"


@pytest.mark.parametrize("path", ["/", "/etc", "/proc/x", "/scratch/../etc", "relative", "/dev/sda"])
async def test_paths_that_would_cover_the_system_are_refused(
    cage: LinuxCage, tmp_path: Path, path: Any
) -> None:
    with pytest.raises(SandboxError) as raised:
        await cage.run(CagedCommand(argv=("true",), read_only={path: tmp_path}))
    assert raised.value.error_code == "sandbox-setup"


async def test_the_environment_is_ours_alone(cage: LinuxCage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    result = await cage.run(CagedCommand(argv=("env",), env={"GIVEN": "1"}))
    names = {line.split("=")[0] for line in result.stdout.decode().splitlines()}
    assert names == {"PATH", "HOME", "LANG", "TZ", "PYTHONHASHSEED", "GIVEN"}


async def test_use_is_accounted_even_for_killed_and_orphaned_children(run_python: Any) -> None:
    burn = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\n"
    plain = await run_python(burn + "x = b'1' * (64 << 20)")
    assert plain.cpu_seconds >= 0.4
    assert plain.max_rss_bytes >= 64 << 20
    killed = await run_python("while True: pass", time_limit=0.7)
    assert killed.cpu_seconds >= 0.05  # a busy machine gives it little, but never nothing


async def test_many_cages_at_once_do_not_meet(cage: LinuxCage) -> None:
    line = "echo $$ > /tmp/mine; sleep 0.1; ls /tmp; ls /proc | grep -c '^[0-9]'"
    results = await asyncio.gather(*(cage.run(CagedCommand(argv=("sh", "-c", line))) for _ in range(8)))
    assert {result.stdout.split()[0] for result in results} == {b"mine"}
    assert max(int(result.stdout.split()[1]) for result in results) <= 5


async def test_no_file_and_no_process_of_ours_is_left_behind(cage: LinuxCage) -> None:
    async def use() -> None:
        await cage.run(CagedCommand(argv=("true",)))
        await cage.run(CagedCommand(argv=("true",), isolation="none"))
        await cage.run(CagedCommand(argv=("sleep", "9"), time_limit=0.1, egress=("example.com",)))

    await use()
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    others = set(children.read_text().split())  # noqa: ASYNC240 - of tests that ran before, in this process
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())  # noqa: ASYNC240
    for _ in range(3):
        await use()
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before  # noqa: ASYNC240
    assert set(children.read_text().split()) <= others  # noqa: ASYNC240


def test_it_works_for_an_ordinary_user(repository: Path) -> None:
    python = Path("/usr/bin/python3")
    version = subprocess.run(
        [python, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, check=False
    )
    if (
        os.geteuid() != 0
        or version.returncode
        or int(version.stdout) < 11
        or not all(folder.stat().st_mode & 1 for folder in (repository, *repository.parents))
    ):
        pytest.skip("needs root, a system Python 3.11 and a repository that others may read")
    code = (
        "import asyncio\n"
        "from maestro_dagster.sandbox.cage import open_cage\n"
        "from maestro_dagster.sandbox.interface import CagedCommand\n"
        "cage = open_cage()\n"
        "assert cage.refusal() is None, cage.refusal()\n"
        "line = 'id -u; ls -A /; echo x > /scratch/x; grep -c . /proc/self/status; ls -A /home /root'\n"
        "print(asyncio.run(cage.run(CagedCommand(argv=('sh', '-c', line)))).stdout.decode())\n"
    )
    done = subprocess.run(
        [python, "-B", "-c", code],
        cwd="/",
        env={"PATH": os.defpath, "PYTHONPATH": str(repository), "TMPDIR": "/tmp"},
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "1000"
    assert {"home", "root", "var", "opt", "srv"} & set(done.stdout.split()) == set()
