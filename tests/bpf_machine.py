"""What the seccomp compiler is compared with: the kernel's classic BPF machine, and the rules read word by word."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache, lru_cache

from barque.oci.runtime_spec import Seccomp, SeccompArg, SeccompSyscall
from barque.runtime.seccomp_compile import ARCHES, MACHINES, Arch, action_value, tables
from barque.sys import bpf, seccomp

X32_BIT = 0x40000000


@dataclass(frozen=True)
class Call:
    """struct seccomp_data"""

    number: int
    audit: int
    args: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)

    def data(self) -> bytes:
        return struct.pack("<IIQ6Q", self.number, self.audit, 0, *self.args)


def simulate(program: bytes, call: Call) -> int:
    """What the kernel's interpreter returns; checks what bpf_check_classic and seccomp_check_filter check."""
    code = _decode(program)
    data, accumulator, at = call.data(), 0, 0
    while True:
        op, jt, jf, k = code[at]
        at += 1
        if op == bpf.RET_K:
            return int(k)
        if op == bpf.LD_W_ABS:
            assert k % 4 == 0
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif op == bpf.ALU_AND_K:
            accumulator &= k
        elif op == bpf.JMP_JA:
            at += k
        else:
            taken = {bpf.JMP_JEQ_K: accumulator == k, bpf.JMP_JGT_K: accumulator > k,
                     bpf.JMP_JGE_K: accumulator >= k}[op]
            at += jt if taken else jf
        assert at < len(code)


@lru_cache(maxsize=8)
def _decode(program: bytes) -> list[tuple[int, int, int, int]]:
    code = list(bpf.INSTRUCTION.iter_unpack(program))
    assert 0 < len(code) <= 4096
    assert code[-1][0] == bpf.RET_K
    return code


@cache
def _names(table: str) -> dict[int, set[str]]:
    result: dict[int, set[str]] = {}
    for name, number in tables()[table].items():
        result.setdefault(number, set()).add(name)
    return result


def interpret(profile: Seccomp, machine: str, call: Call) -> int:
    """What the profile says about ``call``, rule by rule."""
    found = _arch(profile, machine, call)
    if found is None:
        return seccomp.RET_KILL_PROCESS
    arch, number = found
    table = tables()[arch.table]
    names = _names(arch.table).get(number, set())
    default = action_value(profile.default_action, profile.default_errno_ret)
    matching = [(entry, action_value(entry.action, entry.errno_ret)) for entry in profile.syscalls
                if not names.isdisjoint(entry.names)]
    matching = [(entry, action) for entry, action in matching if action != default]
    for entry, action in matching:
        if not entry.args:
            return action
    for entry, action in matching:
        if _holds(entry, call, arch.bits):
            return action
    if default in (seccomp.RET_ALLOW, seccomp.RET_LOG):
        return default
    named = [table[name] for entry in profile.syscalls for name in entry.names if name in table]
    return seccomp.RET_ERRNO | 38 if number > max(named, default=-1) else default


def _arch(profile: Seccomp, machine: str, call: Call) -> tuple[Arch, int] | None:
    native, *others = MACHINES[machine]
    for name in (native, *(name for name in others if name in profile.architectures)):
        arch = ARCHES[name]
        marked = name == "SCMP_ARCH_X32"
        if arch.audit == call.audit and (machine != "x86_64" or call.audit != ARCHES[native].audit
                                         or marked == (call.number >= X32_BIT)):
            return arch, call.number - (X32_BIT if marked else 0)
    return None


def _holds(entry: SeccompSyscall, call: Call, bits: int) -> bool:
    results = [_compare(arg, call.args[arg.index], bits) for arg in entry.args]
    repeated = len({arg.index for arg in entry.args}) < len(entry.args)
    return any(results) if repeated else all(results)


def _compare(arg: SeccompArg, actual: int, bits: int) -> bool:
    width = (1 << bits) - 1
    actual, value, two = actual & width, arg.value & width, arg.value_two & width
    if arg.op == "SCMP_CMP_MASKED_EQ":
        return actual & value == two
    return {"NE": actual != value, "LT": actual < value, "LE": actual <= value, "EQ": actual == value,
            "GE": actual >= value, "GT": actual > value}[arg.op.removeprefix("SCMP_CMP_")]
