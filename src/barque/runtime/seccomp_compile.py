"""OCI seccomp rules -> classic BPF (runtime-spec config-linux.md "Seccomp", linux/seccomp.h).

What a profile means, as libseccomp under runc has it:

* a system call that no rule names gets the default action; names that no architecture here knows are skipped;
* a rule without arguments decides alone; else the first rule whose argument conditions all hold decides, else the
  default. Where one rule names the same argument twice, each of its conditions is a rule of its own;
* rules that say the same as the default are void;
* on architectures with 32-bit registers only the low half of an argument is compared;
* numbers above every system call that the profile names are ENOSYS, unless the default lets them through: a C library
  that tries a newer call then falls back to an older one, where EPERM would be taken as final;
* an architecture that the profile does not list is killed.

The program looks up the number in a balanced tree over the ranges of numbers that share a fate. It keeps to the
instructions that the kernel can evaluate beforehand (seccomp_is_const_allow), so always-allowed calls cost next to
nothing.
"""

from __future__ import annotations

import os
from functools import cache

import msgspec

from barque.errors import InvalidArgument
from barque.oci.runtime_spec import Seccomp, SeccompArg, SeccompSyscall
from barque.sys import bpf, seccomp

_DATA = os.path.join(os.path.dirname(__file__), "data")
_ENOSYS = 38
_EPERM = 1
_X32_BIT = 0x40000000
_LOW = 0xFFFFFFFF

Table = dict[str, int]


class InvalidProfile(InvalidArgument):
    """The profile contradicts itself or names an action, operator or architecture that does not exist."""


class Arch(msgspec.Struct, frozen=True):
    """``table``: key in data/syscalls.json; ``audit``: AUDIT_ARCH_* (linux/audit.h); ``bits`` of a register."""

    table: str
    audit: int
    bits: int


ARCHES = {
    "SCMP_ARCH_X86_64": Arch("x86_64", 0xC000003E, 64),
    "SCMP_ARCH_X86": Arch("x86", 0x40000003, 32),
    # x32 shares AUDIT_ARCH_X86_64 and is told apart by a bit of the number.
    "SCMP_ARCH_X32": Arch("x32", 0xC000003E, 32),
    "SCMP_ARCH_AARCH64": Arch("aarch64", 0xC00000B7, 64),
    "SCMP_ARCH_ARM": Arch("arm", 0x40000028, 32),
}
#: What a machine (os.uname().machine) can run, its native architecture first.
MACHINES = {"x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
            "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")}
#: In the spec's vocabulary, never met on the machines above: nothing to filter.
_FOREIGN = frozenset("SCMP_ARCH_" + name for name in (
    "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "S390", "S390X",
    "PARISC", "PARISC64", "RISCV64", "LOONGARCH64", "M68K", "SH", "SHEB"))

ACTIONS = {
    "SCMP_ACT_KILL": seccomp.RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": seccomp.RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": seccomp.RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": seccomp.RET_TRAP,
    "SCMP_ACT_ERRNO": seccomp.RET_ERRNO,
    "SCMP_ACT_TRACE": seccomp.RET_TRACE,
    "SCMP_ACT_ALLOW": seccomp.RET_ALLOW,
    "SCMP_ACT_LOG": seccomp.RET_LOG,
    "SCMP_ACT_NOTIFY": seccomp.RET_USER_NOTIF,
}
_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
OPERATORS = ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT",
             "SCMP_CMP_MASKED_EQ")


class Rule(msgspec.Struct, frozen=True):
    """``conditions`` all hold -> ``action`` (a filter's return value)."""

    conditions: tuple[tuple[int, str, int, int], ...]
    action: int


Fate = tuple[Rule, ...]


@cache
def tables() -> dict[str, Table]:
    """System call numbers by architecture and name; those of x32 without their marker bit."""
    fd = os.open(os.path.join(_DATA, "syscalls.json"), os.O_RDONLY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        return msgspec.json.decode(file.read(), type=dict[str, Table])


def action_value(action: str, errno: int | None) -> int:
    """The filter's return value; raises :class:`InvalidProfile`."""
    try:
        value = ACTIONS[action]
    except KeyError:
        raise InvalidProfile(f"seccomp: invalid action {action!r}") from None
    if action not in _WITH_ERRNO:
        if errno is not None:
            raise InvalidProfile(f"seccomp: errnoRet is not for action {action}")
        return value
    data = _EPERM if errno is None else errno
    if not 0 <= data <= 0xFFFF:
        raise InvalidProfile(f"seccomp: errnoRet {data} is out of range")
    return value | data


def architectures(profile: Seccomp, machine: str) -> list[Arch]:
    """Those of the profile that ``machine`` can run; its native one always."""
    try:
        possible = MACHINES[machine]
    except KeyError:
        raise InvalidProfile(f"seccomp: no system call table for machine {machine}") from None
    for name in profile.architectures:
        if name not in ARCHES and name not in _FOREIGN:
            raise InvalidProfile(f"seccomp: invalid architecture {name!r}")
    return [ARCHES[name] for name in possible if name == possible[0] or name in profile.architectures]


def fates(profile: Seccomp, table: Table) -> dict[int, Fate]:
    """For each number that the profile decides otherwise than by default: its rules, in order."""
    default = action_value(profile.default_action, profile.default_errno_ret)
    unconditional: dict[int, Fate] = {}
    conditional: dict[int, list[Rule]] = {}
    for entry in profile.syscalls:
        action = action_value(entry.action, entry.errno_ret)
        rules = _rules(entry, action)
        if action == default:
            continue
        for number in (table[name] for name in entry.names if name in table):
            if entry.args:
                conditional.setdefault(number, []).extend(rules)
            else:
                unconditional.setdefault(number, tuple(rules))
    return {number: tuple(rules) for number, rules in conditional.items()} | unconditional


def _rules(entry: SeccompSyscall, action: int) -> list[Rule]:
    conditions = tuple(_condition(arg) for arg in entry.args)
    if len({index for index, *_ in conditions}) < len(conditions):
        return [Rule((condition,), action) for condition in conditions]
    return [Rule(conditions, action)]


def _condition(arg: SeccompArg) -> tuple[int, str, int, int]:
    if arg.op not in OPERATORS:
        raise InvalidProfile(f"seccomp: invalid operator {arg.op!r}")
    if not 0 <= arg.index <= 5:
        raise InvalidProfile(f"seccomp: invalid argument index {arg.index}")
    if not (0 <= arg.value < 1 << 64 and 0 <= arg.value_two < 1 << 64):
        raise InvalidProfile("seccomp: an argument's value is not an unsigned 64-bit number")
    return arg.index, arg.op, arg.value, arg.value_two


def last_known(profile: Seccomp, table: Table) -> int:
    """The highest number that the profile names, -1 for none."""
    return max((table[name] for entry in profile.syscalls for name in entry.names if name in table), default=-1)


def assemble(profile: Seccomp, machine: str) -> bytes:
    """The whole filter as an array of struct sock_filter; raises :class:`InvalidProfile`."""
    asm = bpf.Assembler()
    start = asm.ret(seccomp.RET_KILL_PROCESS)
    x32: bpf.Label | None = None
    # From the end: x32 comes before x86_64, whose part tests the marker bit and jumps there.
    for arch in reversed(architectures(profile, machine)):
        search = _Search(asm, profile, arch)
        if arch.table == "x32":
            x32 = search.label()
            continue
        body = search.label()
        if arch.table == "x86_64":
            foreign = asm.ret(seccomp.RET_KILL_PROCESS) if x32 is None else x32
            body = asm.jump_if(bpf.JMP_JGE_K, _X32_BIT, foreign, body)
        body = asm.load(seccomp.DATA_NR, body)
        start = asm.jump_if(bpf.JMP_JEQ_K, arch.audit, body, start)
    try:
        return asm.program(asm.load(seccomp.DATA_ARCH, start))
    except bpf.ProgramTooLong as error:
        raise InvalidProfile(f"seccomp: {error}") from None


class _Search:
    """The part of the program for one architecture: A holds the number when it is entered."""

    def __init__(self, asm: bpf.Assembler, profile: Seccomp, arch: Arch) -> None:
        self._asm = asm
        self._arch = arch
        self._default = action_value(profile.default_action, profile.default_errno_ret)
        table = tables()[arch.table]
        self._ranges = _ranges(fates(profile, table), self._beyond(profile, table),
                               _X32_BIT if arch.table == "x32" else 0)

    def label(self) -> bpf.Label:
        return self._tree(0, len(self._ranges))

    def _beyond(self, profile: Seccomp, table: Table) -> tuple[int, int] | None:
        """(first unknown number, what it gets), where that is not the default."""
        if self._default in (seccomp.RET_ALLOW, seccomp.RET_LOG):
            return None
        return last_known(profile, table) + 1, seccomp.RET_ERRNO | _ENOSYS

    def _tree(self, low: int, high: int) -> bpf.Label:
        if high - low == 1:
            return self._leaf(self._ranges[low][1])
        middle = (low + high) // 2
        right = self._tree(middle, high)
        left = self._tree(low, middle)
        return self._asm.jump_if(bpf.JMP_JGE_K, self._ranges[middle][0], right, left)

    def _leaf(self, fate: Fate) -> bpf.Label:
        label = self._asm.ret(self._default)
        for rule in reversed(fate):
            chain = self._asm.ret(rule.action)
            for condition in reversed(rule.conditions):
                chain = self._compare(condition, chain, label)
            label = chain
        return label

    def _compare(self, condition: tuple[int, str, int, int], yes: bpf.Label, no: bpf.Label) -> bpf.Label:
        index, op, value, datum = condition
        asm, low, high = self._asm, seccomp.DATA_ARGS + 8 * index, seccomp.DATA_ARGS + 8 * index + 4
        if op == "SCMP_CMP_MASKED_EQ":
            label = asm.load(low, asm.mask(value & _LOW, asm.jump_if(bpf.JMP_JEQ_K, datum & _LOW, yes, no)))
            if self._arch.bits == 64:
                label = asm.load(high, asm.mask(value >> 32, asm.jump_if(bpf.JMP_JEQ_K, datum >> 32, label, no)))
            return label
        if op in ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE"):
            yes, no = no, yes
        code = {"SCMP_CMP_EQ": bpf.JMP_JEQ_K, "SCMP_CMP_NE": bpf.JMP_JEQ_K, "SCMP_CMP_GE": bpf.JMP_JGE_K,
                "SCMP_CMP_LT": bpf.JMP_JGE_K, "SCMP_CMP_GT": bpf.JMP_JGT_K, "SCMP_CMP_LE": bpf.JMP_JGT_K}[op]
        label = asm.load(low, asm.jump_if(code, value & _LOW, yes, no))
        if self._arch.bits == 32:
            return label
        unequal = no
        if code != bpf.JMP_JEQ_K:
            unequal = asm.jump_if(bpf.JMP_JGT_K, value >> 32, yes, no)
        return asm.load(high, asm.jump_if(bpf.JMP_JEQ_K, value >> 32, label, unequal))


def _ranges(decided: dict[int, Fate], beyond: tuple[int, int] | None, base: int) -> list[tuple[int, Fate]]:
    """Cut 0.. into ranges of one fate: (first number, fate); an empty fate is the default."""
    points: list[tuple[int, Fate]] = [(0, ())]
    for number in sorted(decided):
        points += [(base + number, decided[number]), (base + number + 1, ())]
    if beyond is not None:
        points.append((base + beyond[0], (Rule((), beyond[1]),)))
    merged: list[tuple[int, Fate]] = []
    for start, fate in points:
        if merged and merged[-1][0] == start:
            merged.pop()
        if not merged or merged[-1][1] != fate:
            merged.append((start, fate))
    return merged
