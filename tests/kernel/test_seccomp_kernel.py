"""Seccomp filters on the real kernel: what the compiler made is what the kernel enforces."""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import socket
import threading
from collections.abc import Callable

import pytest

from barque.oci.runtime_spec import Seccomp, SeccompArg, SeccompSyscall
from barque.runtime import seccomp_profile
from barque.runtime.capabilities import DEFAULT
from barque.runtime.seccomp_compile import tables
from barque.sys import seccomp
from barque.sys.libc import libc
from tests.kernel.in_child import Died, in_child

EPERM, ENOSYS = 1, 38
needs_x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code for x86_64")


def native() -> dict[str, int]:
    return tables()[os.uname().machine]


def call(number: int, *args: int) -> int:
    """0, or the errno of the system call; arguments keep all 64 bits."""
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in args))
    return ctypes.get_errno() if result < 0 else 0


def under(profile: Seccomp, body: Callable[[], object]) -> object:
    program, flags = seccomp_profile.compile(profile), seccomp_profile.filter_flags(profile)
    numbers = native()

    def child() -> object:
        assert numbers
        seccomp_profile.load_filter(program, flags)
        return body()
    return in_child(child)


def default(caps: frozenset[str] = frozenset(DEFAULT)) -> Seccomp:
    return seccomp_profile.default_profile(caps)


def test_the_default_profile_lets_ordinary_work_through(tmp_path: os.PathLike[str]) -> None:
    def work() -> list[bytes]:
        path = os.path.join(tmp_path, "file")
        with open(path, "wb") as file:
            file.write(b"hello")
        os.rename(path, path + "2")
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        with socket.socket(socket.AF_INET), socket.socket(socket.AF_UNIX), open(path + "2", "rb") as file:
            return [file.read()]
    assert under(default(), work) == [b"hello"]


@pytest.mark.parametrize(("name", "args"), [
    ("mount", ()), ("unshare", (0x10000000,)), ("setns", (0, 0)), ("keyctl", (0,)), ("bpf", (0,)), ("reboot", (0,)),
    ("io_uring_setup", (1, 0)), ("userfaultfd", (0,)), ("perf_event_open", ()), ("kexec_load", ()), ("fsopen", (0, 0)),
    ("socket", (38, 5, 0)), ("socket", (40, 1, 0)), ("socket", (0x100000026, 5, 0)), ("socket", (0xFF00000028, 1, 0)),
    ("personality", (0x0040000,)),
])
def test_forbidden_calls_are_refused(name: str, args: tuple[int, ...]) -> None:
    number = native()[name]
    assert under(default(), lambda: call(number, *args)) == EPERM


def test_without_the_filter_the_kernel_reads_a_socket_domain_as_int() -> None:
    """Why the profile masks the domain: the high bits do not make it another one."""
    assert in_child(lambda: call(native()["socket"], 1 << 32 | socket.AF_UNIX, socket.SOCK_STREAM, 0)) == 0


def test_calls_of_the_future_and_clone3_are_enosys() -> None:
    assert under(default(), lambda: (call(native()["clone3"], 0, 0), call(1999))) == (ENOSYS, ENOSYS)


def test_a_filter_cannot_be_undone_by_another() -> None:
    def nested() -> tuple[int, object]:
        again = seccomp_profile.load_filter(seccomp_profile.compile(Seccomp(default_action="SCMP_ACT_ALLOW")))
        return call(native()["mount"]), again
    assert under(default(), nested) == (EPERM, None)


def test_actions() -> None:
    number = native()["getppid"]

    def profile(action: str, errno: int | None = None) -> Seccomp:
        rule = SeccompSyscall(names=["getppid"], action=action, errno_ret=errno)
        return Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[rule])
    assert under(profile("SCMP_ACT_ERRNO", 77), lambda: call(number)) == 77
    assert under(profile("SCMP_ACT_TRACE", 5), lambda: call(number)) == ENOSYS
    assert under(profile("SCMP_ACT_LOG"), lambda: call(number)) == 0
    for action in ("SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"):
        with pytest.raises(Died) as died:
            under(profile(action), lambda: call(number))
        assert died.value.number == signal.SIGSYS


def test_arguments_are_compared_with_all_64_bits() -> None:
    number = native()["lseek"]
    rule = SeccompSyscall(names=["lseek"], action="SCMP_ACT_ERRNO", errno_ret=99,
                          args=[SeccompArg(index=1, value=1 << 40, op="SCMP_CMP_GE")])
    profile = Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[rule])
    assert under(profile, lambda: (call(number, -1, 1 << 40, 0), call(number, -1, (1 << 40) - 1, 0))) == (99, 9)


def test_a_listener_gets_the_calls() -> None:
    rule = SeccompSyscall(names=["getppid"], action="SCMP_ACT_NOTIFY")
    profile = Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[rule], listener_path="/nowhere")
    number, program = native()["getppid"], seccomp_profile.compile(profile)
    flags = seccomp_profile.filter_flags(profile)

    def child() -> tuple[bool, int]:
        listener = seccomp_profile.load_filter(program, flags)
        assert listener is not None
        assert not os.get_inheritable(listener)
        pid = os.fork()
        if pid == 0:
            os.close(listener)
            os._exit(call(number))
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        told = bool(poll.poll(10_000))
        os.close(listener)
        return told, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    # With nobody listening any more the caller gets ENOSYS.
    assert in_child(child) == (True, ENOSYS)


def test_flags() -> None:
    assert seccomp.supports(seccomp.RET_ALLOW)
    assert not seccomp.supports(0x12340000)
    assert seccomp.supports_flag(seccomp.FLAG_TSYNC)
    assert not seccomp.supports_flag(1 << 30)
    profile = Seccomp(default_action="SCMP_ACT_ALLOW", flags=["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"])
    assert seccomp_profile.filter_flags(profile) == seccomp.FLAG_TSYNC | seccomp.FLAG_LOG
    with pytest.raises(seccomp_profile.InvalidProfile, match="not known"):
        seccomp_profile.filter_flags(Seccomp(default_action="SCMP_ACT_ALLOW", flags=["SECCOMP_FILTER_FLAG_X"]))
    assert under(profile, lambda: call(native()["getppid"])) == 0


def test_tsync_reaches_all_threads() -> None:
    program = seccomp_profile.compile(Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[
        SeccompSyscall(names=["getppid"], action="SCMP_ACT_ERRNO", errno_ret=55)]))

    def child() -> list[int]:
        loaded, results = threading.Event(), []
        thread = threading.Thread(target=lambda: (loaded.wait(), results.append(call(native()["getppid"]))))
        thread.start()
        seccomp_profile.load_filter(program, seccomp.FLAG_TSYNC)
        loaded.set()
        thread.join()
        return results
    native()
    assert in_child(child) == [55]


def test_an_unprivileged_process_needs_no_new_privileges() -> None:
    program = seccomp_profile.compile(Seccomp(default_action="SCMP_ACT_ALLOW"))

    def child() -> str:
        os.setresuid(65534, 65534, 65534)
        with pytest.raises(PermissionError):
            seccomp_profile.load_filter(program)
        seccomp.no_new_privileges()
        seccomp_profile.load_filter(program)
        return "loaded"
    assert in_child(child) == "loaded"


def _int80() -> Callable[[int, int, int], int]:
    """A 32-bit system call out of a 64-bit process: ``int 0x80`` with eax, ebx and ecx."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("53 89f8 89f3 89d1 cd80 5b c3"))
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)(address)

    def invoke(number: int, first: int, second: int) -> int:
        assert len(page)
        return int(function(number, first, second))
    return invoke


@needs_x86_64
def test_32_bit_calls_have_their_own_table() -> None:
    x86, invoke = tables()["x86"], _int80()

    def calls() -> list[int]:
        return [invoke(x86["getpid"], 0, 0) - os.getpid(), invoke(x86["socketcall"], 1, 0),
                invoke(x86["socket"], 38, 5), invoke(x86["mount"], 0, 0), invoke(x86["clone3"], 0, 0)]
    assert under(default(), calls) == [0, -EPERM, -EPERM, -EPERM, -ENOSYS]


@needs_x86_64
def test_architectures_that_are_not_listed_are_killed() -> None:
    profile = default()
    profile.architectures = ["SCMP_ARCH_X86_64"]
    x86, invoke = tables()["x86"], _int80()
    assert under(profile, lambda: call(native()["getppid"])) == 0
    for body in (lambda: invoke(x86["getpid"], 0, 0), lambda: call(0x40000000 + native()["getppid"])):
        with pytest.raises(Died) as died:
            under(profile, body)
        assert died.value.number == signal.SIGSYS
