"""The system calls that a cage refuses, as a seccomp program (seccomp(2), bpf(4)).

Namespaces and dropped capabilities hold the command already; this list takes away what they do not
cover: keyrings, tracing, kernel interfaces with a history of faults, and socket families that no
network namespace confines (vsock reaches the host of a virtual machine).
"""

from __future__ import annotations

import struct

# number on x86_64, number on aarch64 (None: does not exist there)
REFUSED: dict[str, tuple[int, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "open_by_handle_at": (304, 265),
    "lookup_dcookie": (212, 18),
    "syslog": (103, 116),
    "iopl": (172, None),
    "ioperm": (173, None),
}
SOCKET = {"x86_64": 41, "aarch64": 198}
CLONE3 = 435
FAMILIES = (1, 2, 10, 16)  # unix, IPv4, IPv6, netlink
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 0x00050000 | 1, 0x00050000 | 38, 0x00050000 | 97
_X32 = 0x40000000  # the second set of numbers of x86_64, which would go round the list


def build_filter(machine: str) -> bytes:
    """An array of `struct sock_filter` for this machine; KeyError for one that is not known."""
    column = ("x86_64", "aarch64").index(machine) if machine in AUDIT_ARCH else None
    if column is None:
        raise KeyError(machine)
    refused = sorted(number for row in REFUSED.values() if (number := row[column]) is not None)
    program = [
        _step(_LOAD, 4),  # seccomp_data.arch
        _step(_EQUAL, AUDIT_ARCH[machine], 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, 0),  # seccomp_data.nr
        _step(_AT_LEAST, _X32, 0, 1),
        _step(_RETURN, _ENOSYS),
        # Its flags stand in memory, out of the filter's sight; libc falls back to clone(2).
        _step(_EQUAL, CLONE3, 0, 1),
        _step(_RETURN, _ENOSYS),
    ]
    for number in refused:
        program += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _EPERM)]
    program += [_step(_EQUAL, SOCKET[machine], 1, 0), _step(_RETURN, _ALLOW), _step(_LOAD, 16)]  # args[0]
    for family in FAMILIES:
        program += [_step(_EQUAL, family, 0, 1), _step(_RETURN, _ALLOW)]
    program.append(_step(_RETURN, _EAFNOSUPPORT))
    return b"".join(program)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
