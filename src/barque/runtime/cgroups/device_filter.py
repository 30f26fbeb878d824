"""Version 2's device control: the OCI's rules as an eBPF program on the cgroup.

The kernel asks the program at every open and mknod of a device node and goes by its answer, 1 or 0. Of several programs
(ours, those above, a nested runtime's) all must say 1.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from barque.oci.runtime_spec import DeviceCgroup
from barque.runtime.cgroups.device_rules import normalized
from barque.sys import ebpf
from barque.sys.ebpf import instruction

#: linux/bpf.h, struct bpf_cgroup_dev_ctx: u32 access_type (access << 16 | type), major, minor.
_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_ALL = 7
_R0, _R1, _TYPE, _WANTED, _MAJOR, _MINOR, _SCRATCH = 0, 1, 2, 3, 4, 5, 6


def assemble(rules: list[DeviceCgroup]) -> bytes:
    """The program: from the last rule to the first, each settles the accesses that no later one has settled.

    What no rule names is denied.
    """
    code = [instruction(ebpf.LDX_W, _TYPE, _R1, 0), instruction(ebpf.MOV32_X, _WANTED, _TYPE),
            instruction(ebpf.AND32_K, _TYPE, immediate=0xFFFF), instruction(ebpf.RSH32_K, _WANTED, immediate=16),
            instruction(ebpf.LDX_W, _MAJOR, _R1, 4), instruction(ebpf.LDX_W, _MINOR, _R1, 8)]
    for rule in reversed(rules):
        allow, kind, major, minor, access = normalized(rule)
        mask = sum(_ACCESS[letter] for letter in set(access))
        code += _rule(allow, _TYPES.get(kind), major, minor, mask)
        if kind == "a" and mask == _ALL:
            break
    else:
        code += _answer(0)
    return b"".join(code)


def _rule(allow: bool, kind: int | None, major: int, minor: int, mask: int) -> list[bytes]:
    """Skip unless type and numbers match; an allow takes its accesses off the wanted ones, a deny refuses them."""
    if allow and mask == _ALL:
        body = _answer(1)
    elif allow:
        body = [instruction(ebpf.AND32_K, _WANTED, immediate=_ALL & ~mask),
                instruction(ebpf.JNE32_K, _WANTED, offset=2), *_answer(1)]
    elif mask == _ALL:
        body = _answer(0)
    else:
        body = [instruction(ebpf.MOV32_X, _SCRATCH, _WANTED), instruction(ebpf.AND32_K, _SCRATCH, immediate=mask),
                instruction(ebpf.JEQ32_K, _SCRATCH, offset=2), *_answer(0)]
    tests = [(register, value) for register, value in ((_TYPE, kind), (_MAJOR, major), (_MINOR, minor))
             if value is not None and value >= 0]
    jumps = []
    for place, (register, value) in enumerate(tests):
        jumps.append(instruction(ebpf.JNE32_K, register, immediate=value, offset=len(tests) - place - 1 + len(body)))
    return jumps + body


def _answer(value: int) -> list[bytes]:
    return [instruction(ebpf.MOV_K, _R0, immediate=value), instruction(ebpf.EXIT)]


def attach(path: str, rules: list[DeviceCgroup]) -> None:
    """Make ``rules`` the device control of the cgroup at ``path``, in place of an earlier one.

    Raises OSError; PermissionError where the kernel lets nobody load such a program.
    """
    with ExitStack() as stack:
        cgroup = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, cgroup)
        earlier = ebpf.attached_device_programs(cgroup)
        for fd in earlier:
            stack.callback(os.close, fd)
        program = ebpf.load_device_program(assemble(rules))
        stack.callback(os.close, program)
        ebpf.attach_device_program(cgroup, program, earlier[0] if earlier else None)
        for fd in earlier[1:]:
            ebpf.detach_device_program(cgroup, fd)
