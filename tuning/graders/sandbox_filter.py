"""The system calls that code in the sandbox must not make, as a seccomp program for `bwrap --seccomp`.

Namespaces hide the machine; these calls would still reach the kernel's own state: sockets, memory that no limit counts
(shared segments, memory files), other processes, keys, and the calls that most kernel exploits began with. New
processes and threads are refused here too, so that the limits of one process are the limits of all.
"""

import errno
import platform
import struct
from collections.abc import Mapping

_NUMBERS: Mapping[str, Mapping[str, int]] = {
    "x86_64": {
        "socket": 41,
        "socketpair": 53,
        "clone": 56,
        "fork": 57,
        "vfork": 58,
        "clone3": 435,
        "shmget": 29,
        "shmat": 30,
        "semget": 64,
        "msgget": 68,
        "mq_open": 240,
        "memfd_create": 319,
        "memfd_secret": 447,
        "ptrace": 101,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "pidfd_getfd": 438,
        "kcmp": 312,
        "unshare": 272,
        "setns": 308,
        "mount": 165,
        "umount2": 166,
        "pivot_root": 155,
        "chroot": 161,
        "open_tree": 428,
        "move_mount": 429,
        "fsopen": 430,
        "fsmount": 432,
        "mount_setattr": 442,
        "open_by_handle_at": 304,
        "keyctl": 250,
        "add_key": 248,
        "request_key": 249,
        "bpf": 321,
        "perf_event_open": 298,
        "userfaultfd": 323,
        "io_uring_setup": 425,
        "io_setup": 206,
        "fanotify_init": 300,
        "personality": 135,
        "kexec_load": 246,
        "finit_module": 313,
        "init_module": 175,
        "syslog": 103,
    },
    "aarch64": {
        "socket": 198,
        "socketpair": 199,
        "clone": 220,
        "clone3": 435,
        "shmget": 194,
        "shmat": 196,
        "semget": 190,
        "msgget": 186,
        "mq_open": 180,
        "memfd_create": 279,
        "memfd_secret": 447,
        "ptrace": 117,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "pidfd_getfd": 438,
        "kcmp": 272,
        "unshare": 97,
        "setns": 268,
        "mount": 40,
        "umount2": 39,
        "pivot_root": 41,
        "chroot": 51,
        "open_tree": 428,
        "move_mount": 429,
        "fsopen": 430,
        "fsmount": 432,
        "mount_setattr": 442,
        "open_by_handle_at": 265,
        "keyctl": 219,
        "add_key": 217,
        "request_key": 218,
        "bpf": 280,
        "perf_event_open": 241,
        "userfaultfd": 282,
        "io_uring_setup": 425,
        "io_setup": 0,
        "fanotify_init": 262,
        "personality": 92,
        "kexec_load": 104,
        "finit_module": 273,
        "init_module": 105,
        "syslog": 116,
    },
}
_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_X32 = 0x40000000  # on x86_64: the same calls once more under other numbers

# linux/filter.h: load a word of seccomp_data; jump if equal, or if greater or equal; return
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000  # linux/seccomp.h


class NoFilter(Exception):
    """This machine's system calls have other numbers than those above."""


def compile_filter(machine: str | None = None) -> bytes:
    """The program as the kernel reads it. Raises NoFilter."""
    machine = machine or platform.machine()
    if machine not in _NUMBERS:
        raise NoFilter(f"there is no system call filter for {machine!r}, only for {', '.join(_NUMBERS)}")
    checks = [(_JUMP_EQUAL, number) for number in _NUMBERS[machine].values()]
    if machine == "x86_64":
        checks.append((_JUMP_AT_LEAST, _X32))
    program = [
        _instruction(_LOAD, _ARCHITECTURE_OFFSET),
        _instruction(_JUMP_EQUAL, _AUDIT_ARCHITECTURE[machine], if_true=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER_OFFSET),
    ]
    # each check jumps over those after it and the ALLOW, to the REFUSE
    program += [_instruction(code, number, if_true=len(checks) - index) for index, (code, number) in enumerate(checks)]
    program += [_instruction(_RETURN, _ALLOW), _instruction(_RETURN, _REFUSE)]
    return b"".join(program)


def _instruction(code: int, constant: int, *, if_true: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, 0, constant)
