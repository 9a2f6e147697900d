"""System calls that no job needs, and that lead out of its sandbox or into the kernel's dark corners: refused.

Namespaces hide nothing of virtual sockets (AF_VSOCK, which reach the hypervisor and the virtual machines beside), of
keyrings, which follow the account, and of the kernel's log. io_uring, userfaultfd, bpf and perf events are where
kernels were broken into most; programs that use them do without where they are missing. Standard library only.
"""

import contextlib
import errno
import os
import struct
from collections.abc import Iterator

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_X32 = 0x40000000  # a third way to call an x86_64 kernel, by other numbers
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK

# By AUDIT_ARCH: socket(), and what is refused: add_key, request_key, keyctl, userfaultfd, bpf, perf_event_open, syslog,
# open_by_handle_at, for 32 bits socketcall (which hides the family), and from 425 on the three of io_uring.
_IO_URING = (425, 426, 427)
_TABLES = {
    0xC000003E: (41, (248, 249, 250, 323, 321, 298, 103, 304, *_IO_URING)),  # x86_64
    0x40000003: (359, (286, 287, 288, 374, 357, 336, 103, 342, 102, *_IO_URING)),  # i386
    0xC00000B7: (198, (217, 218, 219, 282, 280, 241, 116, 265, *_IO_URING)),  # aarch64
    0x40000028: (281, (309, 310, 311, 388, 386, 364, 103, 371, 102, *_IO_URING)),  # arm
}
_MACHINES = {"x86_64": (0xC000003E, 0x40000003), "aarch64": (0xC00000B7, 0x40000028)}

Instruction = tuple[int, int, int, int]  # code, where to go on if true and if false, operand


def program(machine: str = os.uname().machine) -> bytes:
    """The filter as ``bwrap --seccomp`` reads it; empty for a machine whose numbers are not known here."""
    if machine not in _MACHINES:
        return b""
    found: list[Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE)]
    for architecture in _MACHINES[machine]:
        part = _part(architecture)
        found += [(_EQUAL, 0, len(part), architecture), *part]
    found.append(_refuse(errno.ENOSYS))  # an architecture that this machine does not have
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in found)


@contextlib.contextmanager
def opened() -> Iterator[list[int]]:
    """A descriptor from which bwrap can read the filter; none where there is no filter."""
    if not program():
        yield []
        return
    fd = os.memfd_create("seccomp")
    try:
        os.write(fd, program())
        os.lseek(fd, 0, os.SEEK_SET)
        yield [fd]
    finally:
        os.close(fd)


def options(filters: list[int]) -> list[str]:
    """What to tell bwrap of it."""
    return [part for fd in filters for part in ("--seccomp", str(fd))]


def _part(architecture: int) -> list[Instruction]:
    socket, refused = _TABLES[architecture]
    found: list[Instruction] = [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), _refuse(errno.ENOSYS)]
    for number in refused:
        found += [(_EQUAL, 0, 1, number), _refuse(errno.ENOSYS)]
    found += [(_EQUAL, 1, 0, socket), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    for family in _FAMILIES:
        found += [(_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW)]
    return [*found, _refuse(errno.EAFNOSUPPORT)]


def _refuse(number: int) -> Instruction:
    return _RETURN, 0, 0, _ERRNO | number
