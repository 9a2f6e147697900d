"""The filter of system calls, run as the kernel would."""

import errno
import os
import struct

import pytest

from scd.launcher.seccomp import opened, options, program

X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
ALLOWED = 0


def verdict(architecture: int, number: int, argument: int = 0, machine: str = "x86_64") -> int:
    """0, or the error that the caller gets."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, argument, 0, 0, 0, 0, 0)
    instructions = list(struct.iter_unpack("=HBBI", program(machine)))
    accumulator, at = 0, 0
    while True:
        code, yes, no, operand = instructions[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x15:
                at += yes if accumulator == operand else no
            case 0x35:
                at += yes if accumulator >= operand else no
            case 0x06:
                return 0 if operand == 0x7FFF0000 else operand & 0xFFFF
            case _:
                raise AssertionError(f"code {code:#x}")


@pytest.mark.parametrize("number", [0, 1, 9, 56, 59, 101, 231, 435])
def test_what_programs_do_is_allowed(number: int) -> None:
    assert verdict(X86_64, number) == ALLOWED
    assert verdict(I386, number) == ALLOWED


@pytest.mark.parametrize(
    ("architecture", "number"),
    [(X86_64, 250), (X86_64, 323), (X86_64, 321), (X86_64, 425), (X86_64, 427), (I386, 288), (I386, 102), (I386, 425)],
)
def test_keyrings_page_faults_bpf_and_io_uring_are_missing(architecture: int, number: int) -> None:
    assert verdict(architecture, number) == errno.ENOSYS


@pytest.mark.parametrize(("machine", "architecture", "number"), [("x86_64", X86_64, 41), ("aarch64", AARCH64, 198)])
def test_sockets_of_the_usual_families_alone(machine: str, architecture: int, number: int) -> None:
    for family in (1, 2, 10, 16):
        assert verdict(architecture, number, family, machine) == ALLOWED
    for family in (17, 38, 40, 44):  # packets, the kernel's cryptography, virtual machines, express data path
        assert verdict(architecture, number, family, machine) == errno.EAFNOSUPPORT


def test_no_way_around_by_other_numbers() -> None:
    assert verdict(X86_64, 0x40000000 | 425) == errno.ENOSYS, "by those of x32"
    assert verdict(AARCH64, 0) == errno.ENOSYS, "by an architecture that this machine has not"


def test_where_the_numbers_are_not_known_there_is_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert program("riscv64") == b""
    with opened() as filters:
        (fd,) = filters
        assert options(filters) == ["--seccomp", str(fd)]
        assert os.read(fd, 2**16) == program()
    monkeypatch.setattr("scd.launcher.seccomp.program", lambda: b"")
    with opened() as filters:
        assert options(filters) == []
