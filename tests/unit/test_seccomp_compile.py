"""The seccomp compiler: against its rules read word by word, and against libseccomp."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barque.oci.runtime_spec import Seccomp, SeccompArg, SeccompSyscall
from barque.runtime import seccomp_profile
from barque.runtime.capabilities import DEFAULT, docker_caps
from barque.runtime.seccomp_compile import (
    ARCHES,
    MACHINES,
    OPERATORS,
    InvalidProfile,
    action_value,
    assemble,
    fates,
    tables,
)
from barque.sys import bpf, seccomp
from tests.bpf_machine import X32_BIT, Call, interpret, simulate

X86_64, X86 = ARCHES["SCMP_ARCH_X86_64"].audit, ARCHES["SCMP_ARCH_X86"].audit
EPERM, ENOSYS = seccomp.RET_ERRNO | 1, seccomp.RET_ERRNO | 38
KERNEL = (6, 1)

NAMES = ["read", "write", "clone", "clone3", "socket", "socketcall", "personality", "futex_time64", "chown32", "ptrace",
         "set_tls", "io_uring_setup", "mseal", "no_such_call", "openat", "arch_prctl", "exit"]
_values = st.one_of(st.integers(0, (1 << 64) - 1), st.sampled_from([0, 1, 38, 40, 0xFFFFFFFF, 1 << 32, 0x100000026]))
_args = st.builds(SeccompArg, index=st.integers(0, 5), value=_values, value_two=_values, op=st.sampled_from(OPERATORS))
_actions = st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_LOG",
                            "SCMP_ACT_ERRNO", "SCMP_ACT_TRACE", "SCMP_ACT_NOTIFY"])
_entries = st.builds(SeccompSyscall, names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=5), action=_actions,
                     errno_ret=st.none(), args=st.lists(_args, max_size=3))
_arch_names = st.lists(st.sampled_from([*ARCHES, "SCMP_ARCH_S390X"]), max_size=4, unique=True)
_profiles = st.builds(Seccomp, default_action=_actions, architectures=_arch_names,
                      syscalls=st.lists(_entries, max_size=8))


def _calls(profile: Seccomp, machine: str, six: tuple[int, int, int, int, int, int]) -> list[Call]:
    """Calls around every boundary of the profile, on every architecture."""
    interesting = {arg.value for entry in profile.syscalls for arg in entry.args}
    interesting |= {arg.value_two for entry in profile.syscalls for arg in entry.args}
    variants = [six]
    for value in sorted(interesting)[:6]:
        variants += [(near & (1 << 64) - 1,) * 6 for near in (value - 1, value, value + 1)]
    calls = []
    for arch in ARCHES.values():
        table = tables()[arch.table]
        base = X32_BIT if arch.table == "x32" else 0
        named = {table[name] for name in NAMES if name in table}
        for number in {near for value in named for near in (value - 1, value, value + 1) if near >= 0} | {0, 5000}:
            calls += [Call(base + number, arch.audit, args) for args in variants]
    return calls


@settings(max_examples=40, deadline=None)
@given(_profiles, st.sampled_from(sorted(MACHINES)), st.tuples(*[_values] * 6))
def test_the_program_does_what_the_rules_say(profile: Seccomp, machine: str, six: Any) -> None:
    program = assemble(profile, machine)
    for call in _calls(profile, machine, six):
        assert simulate(program, call) == interpret(profile, machine, call), call


@pytest.mark.parametrize("caps", [frozenset(DEFAULT), frozenset(), frozenset(docker_caps(["ALL"], []))],
                         ids=["default", "none", "all"])
@pytest.mark.parametrize("machine", sorted(MACHINES))
def test_every_number_of_the_default_profile(caps: frozenset[str], machine: str) -> None:
    profile = seccomp_profile.default_profile(caps, KERNEL, machine)
    program = assemble(profile, machine)
    for name in MACHINES[machine]:
        base = X32_BIT if name == "SCMP_ARCH_X32" else 0
        for number in [*range(600), *range(0xF0000, 0xF0008), 0x3FFFFFFF]:
            for args in ((0,) * 6, (0x7E020000,) * 6, (38,) * 6, (0xFFFFFFFF,) * 6, (40, 1, 0, 0, 0, 0)):
                call = Call(base + number, ARCHES[name].audit, args)
                assert simulate(program, call) == interpret(profile, machine, call), (name, call)


def _default(name: str, *args: int, caps: frozenset[str] = frozenset(DEFAULT), arch: str = "SCMP_ARCH_X86_64",
             **options: bool) -> int:
    profile = seccomp_profile.default_profile(caps, KERNEL, "x86_64", **options)
    spec = ARCHES[arch]
    number = tables()[spec.table][name] + (X32_BIT if spec.table == "x32" else 0)
    return simulate(assemble(profile, "x86_64"), Call(number, spec.audit, (*args, 0, 0, 0, 0, 0, 0)[:6]))


def test_what_containers_need_is_allowed() -> None:
    for name in ("read", "execve", "openat2", "futex", "faccessat2", "chroot", "rseq", "statx"):
        assert _default(name) == seccomp.RET_ALLOW, name
    assert _default("chroot", caps=frozenset()) == EPERM


@pytest.mark.parametrize("name", ["io_uring_setup", "io_uring_enter", "io_uring_register", "mount", "umount2", "bpf",
                                  "unshare", "setns", "keyctl", "add_key", "kexec_load", "init_module",
                                  "open_by_handle_at", "userfaultfd", "perf_event_open", "move_mount", "fsopen",
                                  "swapon", "reboot"])
def test_what_they_must_not_do_is_refused(name: str) -> None:
    assert _default(name) == EPERM


@pytest.mark.parametrize("arch", ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
def test_socket_domains(arch: str) -> None:
    for domain in range(64):
        expected = EPERM if domain in (38, 40) else seccomp.RET_ALLOW
        assert _default("socket", domain, arch=arch) == expected, domain
        # The kernel takes an int: what stands above it must not hide the domain.
        assert _default("socket", domain | 1 << 32, arch=arch) == expected, domain
        assert _default("socket", domain | 0xFFFFFFFF << 32, arch=arch) == expected, domain


def test_socketcall_has_a_switch() -> None:
    assert _default("socketcall", arch="SCMP_ARCH_X86") == EPERM
    assert _default("socketcall", arch="SCMP_ARCH_X86", allow_socketcall=True) == seccomp.RET_ALLOW


def test_new_calls_are_enosys_so_that_libraries_fall_back() -> None:
    assert _default("clone3") == ENOSYS
    assert _default("clone3", caps=frozenset(["CAP_SYS_ADMIN"])) == seccomp.RET_ALLOW
    program = assemble(seccomp_profile.default_profile(frozenset(DEFAULT), KERNEL, "x86_64"), "x86_64")
    assert simulate(program, Call(599, X86_64)) == ENOSYS
    assert simulate(program, Call(X32_BIT + 599, X86_64)) == ENOSYS
    assert simulate(program, Call(3, 0xC00000B7)) == seccomp.RET_KILL_PROCESS


def test_clone_may_not_make_namespaces() -> None:
    assert _default("clone", 0x11) == seccomp.RET_ALLOW
    for flag in (0x10000000, 0x20000000, 0x40000000, 0x02000000, 0x04000000, 0x08000000, 0x00020000):
        assert _default("clone", flag | 0x11) == EPERM, hex(flag)


def test_ptrace_depends_on_the_kernel() -> None:
    names = [name for entry in seccomp_profile.default_profile(frozenset(), (4, 7), "x86_64").syscalls
             for name in entry.names]
    assert "ptrace" not in names


def test_programs_are_kept_by_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(profile: Seccomp, machine: str) -> bytes:
        made.append(machine)
        return assemble(profile, machine)
    monkeypatch.setattr(seccomp_profile, "assemble", counted)
    profile = Seccomp(default_action="SCMP_ACT_ERRNO", default_errno_ret=77)
    first = seccomp_profile.compile(profile, "x86_64")
    assert seccomp_profile.compile(Seccomp(default_action="SCMP_ACT_ERRNO", default_errno_ret=77), "x86_64") == first
    assert seccomp_profile.compile(profile, "aarch64") != first
    assert made == ["x86_64", "aarch64"]


@pytest.mark.parametrize(("profile", "text"), [
    (Seccomp(default_action="SCMP_ACT_NO"), "invalid action"),
    (Seccomp(default_action="SCMP_ACT_ERRNO", default_errno_ret=70000), "out of range"),
    (Seccomp(default_action="SCMP_ACT_ALLOW", default_errno_ret=1), "not for action"),
    (Seccomp(default_action="SCMP_ACT_ALLOW", architectures=["SCMP_ARCH_Z80"]), "invalid architecture"),
    (Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[SeccompSyscall(
        names=["read"], action="SCMP_ACT_KILL", args=[SeccompArg(index=6)])]), "argument index"),
    (Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[SeccompSyscall(
        names=["read"], action="SCMP_ACT_KILL", args=[SeccompArg(op="SCMP_CMP_XX")])]), "invalid operator"),
])
def test_nonsense_is_refused(profile: Seccomp, text: str) -> None:
    with pytest.raises(InvalidProfile, match=text):
        assemble(profile, "x86_64")


@pytest.mark.parametrize(("document", "text"), [
    (b"{", "Decoding seccomp profile failed"),
    (b'{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"x"}]}',
     "use either 'architectures' or 'archMap'"),
    (b'{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}',
     "use either 'name' or 'names'"),
])
def test_bad_documents_get_dockers_words(document: bytes, text: str) -> None:
    with pytest.raises(InvalidProfile, match=text):
        seccomp_profile.docker_profile(document, frozenset())


def test_notifications_need_a_listener() -> None:
    entry = SeccompSyscall(names=["mkdir"], action="SCMP_ACT_NOTIFY")
    with pytest.raises(InvalidProfile, match="listenerPath"):
        seccomp_profile.notifies(Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[entry]))
    with pytest.raises(InvalidProfile, match="default action"):
        seccomp_profile.notifies(Seccomp(default_action="SCMP_ACT_NOTIFY"))
    assert seccomp_profile.notifies(Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[entry], listener_path="/run/x"))


def test_far_jumps_are_bridged() -> None:
    """More conditions than an 8-bit offset spans, every one of them reachable."""
    args = [[SeccompArg(index=0, value=value, op="SCMP_CMP_EQ")] for value in range(200)]
    profile = Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[
        SeccompSyscall(names=["read", "getpid"], action="SCMP_ACT_ERRNO", errno_ret=place + 1, args=arg)
        for place, arg in enumerate(args)])
    program = assemble(profile, "x86_64")
    assert len(program) // bpf.INSTRUCTION.size > 600
    for value in range(0, 200, 7):
        assert simulate(program, Call(0, X86_64, (value, 0, 0, 0, 0, 0))) == seccomp.RET_ERRNO | value + 1
    assert simulate(program, Call(0, X86_64, (200, 0, 0, 0, 0, 0))) == seccomp.RET_ALLOW
    assert simulate(program, Call(1, X86_64)) == seccomp.RET_ALLOW


def test_a_program_too_long_is_refused() -> None:
    args = [SeccompArg(index=0, value=value) for value in range(2000)]
    profile = Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[SeccompSyscall(
        names=["read"], action="SCMP_ACT_KILL", args=args)])
    with pytest.raises(InvalidProfile, match="instructions"):
        assemble(profile, "x86_64")


class _ScmpArg(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


class Oracle:
    """libseccomp, asked for the program of a profile as runc asks it."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL("libseccomp.so.2")
        self.lib.seccomp_init.restype = ctypes.c_void_p

    def program(self, profile: Seccomp) -> bytes:
        default = action_value(profile.default_action, profile.default_errno_ret)
        context = ctypes.c_void_p(self.lib.seccomp_init(ctypes.c_uint32(default)))
        # SCMP_FLTATR_ACT_BADARCH
        assert self.lib.seccomp_attr_set(context, 2, ctypes.c_uint32(seccomp.RET_KILL_PROCESS)) == 0
        for name in profile.architectures:
            self.lib.seccomp_arch_add(context, self._token(name))
        for entry in profile.syscalls:
            value = action_value(entry.action, entry.errno_ret)
            if value != default:
                self._rules(context, entry, value)
        program = self._export(context)
        self.lib.seccomp_release(context)
        return program

    def _token(self, name: str) -> ctypes.c_uint32:
        return ctypes.c_uint32(0x4000003E if name == "SCMP_ARCH_X32" else ARCHES[name].audit)

    def knows(self, name: str, call: str) -> bool:
        """Whether the architecture has the call, as the library sees it."""
        return bool(self.lib.seccomp_syscall_resolve_name_arch(self._token(name), call.encode()) >= 0)

    def _rules(self, context: ctypes.c_void_p, entry: SeccompSyscall, value: int) -> None:
        args = (_ScmpArg * max(1, len(entry.args)))()
        for place, arg in enumerate(entry.args):
            args[place] = _ScmpArg(arg.index, 1 + OPERATORS.index(arg.op), arg.value, arg.value_two)
        for name in entry.names:
            number = self.lib.seccomp_syscall_resolve_name(name.encode())
            if number != -1:
                self.lib.seccomp_rule_add_array(context, ctypes.c_uint32(value), number, len(entry.args), args)

    def _export(self, context: ctypes.c_void_p) -> bytes:
        fd = os.memfd_create("program")
        assert self.lib.seccomp_export_bpf(context, fd) == 0
        size = os.lseek(fd, 0, os.SEEK_CUR)
        data = os.pread(fd, size, 0)
        os.close(fd)
        return data


@pytest.mark.skipif(ctypes.util.find_library("seccomp") is None, reason="libseccomp2 is not installed")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the oracle compiles for its own machine")
@pytest.mark.parametrize("caps", [frozenset(DEFAULT), frozenset(), frozenset(docker_caps(["ALL"], []))],
                         ids=["default", "none", "all"])
def test_libseccomp_agrees_on_the_default_profile(caps: frozenset[str]) -> None:
    profile = seccomp_profile.default_profile(caps, KERNEL, "x86_64")
    oracle = Oracle()
    ours, theirs = assemble(profile, "x86_64"), oracle.program(profile)
    differing = []
    for name in profile.architectures:
        arch = ARCHES[name]
        base = X32_BIT if name == "SCMP_ARCH_X32" else 0
        for number in range(max(fates(profile, tables()[arch.table])) + 1):
            for args in ((0,) * 6, (0x7E020000,) * 6, (38,) * 6, (41, 1, 0, 0, 0, 0), (0xFFFFFFFF,) * 6, (8,) * 6):
                call = Call(base + number, arch.audit, args)
                if simulate(ours, call) != simulate(theirs, call):
                    differing.append((name, number, args))
    # Calls younger than the library; and it opens socketcall along with socket, which the filter cannot look into.
    known = {(name, number) for name in profile.architectures for call, number in tables()[ARCHES[name].table].items()
             if call == "socketcall" or not oracle.knows(name, call)}
    # A later library knows more calls of X32 than the kernel's table has: here they fall to the default.
    strangers = {(name, number) for name, number, _ in differing if number not in tables()[ARCHES[name].table].values()}
    assert {(name, number) for name, number, _ in differing} <= known | strangers
