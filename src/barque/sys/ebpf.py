"""The little of eBPF that device control needs: encoding instructions, loading, attaching to a cgroup (bpf(2))."""

from __future__ import annotations

import ctypes
import os
import struct

from barque.sys.libc import number, syscall

_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_PROG_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_F_ALLOW_MULTI, _F_REPLACE = 1 << 1, 1 << 2
#: A cgroup takes 64 programs of one type (BPF_CGROUP_MAX_PROGS).
_MAX_ATTACHED = 64

#: struct bpf_insn: u8 code, u8 registers (source << 4 | destination), s16 offset, s32 immediate.
_INSTRUCTION = struct.Struct("=BBhi")

LDX_W = 0x61       # dst = *(u32 *)(src + off)
MOV_X = 0xBF       # dst = src
MOV32_X = 0xBC
MOV_K = 0xB7
AND32_K = 0x54
RSH32_K = 0x74
JNE32_K = 0x56     # BPF_JMP32, since Linux 5.1
JEQ32_K = 0x16
EXIT = 0x95


def instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """One instruction; ``immediate`` may be given as an unsigned 32-bit number."""
    signed = immediate - (1 << 32) if immediate >= 1 << 31 else immediate
    return _INSTRUCTION.pack(code, src << 4 | dst, offset, signed)


def load_device_program(program: bytes) -> int:
    """Load a BPF_PROG_TYPE_CGROUP_DEVICE program; its fd (O_CLOEXEC) keeps it until it is attached.

    Raises OSError: EPERM without CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN), EINVAL or EACCES when the verifier
    refuses it.
    """
    code = ctypes.create_string_buffer(program, len(program))
    terms = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack("=IIQQIIQII16s", _PROG_TYPE_CGROUP_DEVICE, len(program) // _INSTRUCTION.size,
                             ctypes.addressof(code), ctypes.addressof(terms), 0, 0, 0, 0, 0, b"barque_devices")
    return _bpf(_PROG_LOAD, attributes)


def attach_device_program(cgroup_fd: int, program_fd: int, replace_fd: int | None = None) -> None:
    """Attach beside the programs that others attached; in place of ``replace_fd``, without a gap, if given."""
    flags = _F_ALLOW_MULTI | (_F_REPLACE if replace_fd is not None else 0)
    _bpf(_PROG_ATTACH, struct.pack("=IIIII", cgroup_fd, program_fd, _ATTACH_CGROUP_DEVICE, flags, replace_fd or 0))


def detach_device_program(cgroup_fd: int, program_fd: int) -> None:
    _bpf(_PROG_DETACH, struct.pack("=IIIII", cgroup_fd, program_fd, _ATTACH_CGROUP_DEVICE, 0, 0))


def attached_device_programs(cgroup_fd: int) -> list[int]:
    """New fds (O_CLOEXEC) of the programs attached to this very cgroup; the caller closes them."""
    ids = (ctypes.c_uint32 * _MAX_ATTACHED)()
    attributes = ctypes.create_string_buffer(struct.pack("=IIIIQI4xQ", cgroup_fd, _ATTACH_CGROUP_DEVICE, 0, 0,
                                                         ctypes.addressof(ids), _MAX_ATTACHED, 0))
    syscall(number("bpf"), _PROG_QUERY, attributes, len(attributes) - 1, what="bpf(BPF_PROG_QUERY)")
    count = struct.unpack_from("=I", attributes, 24)[0]
    found: list[int] = []
    try:
        for program_id in ids[:count]:
            found.append(_bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", program_id, 0, 0)))
    except OSError:
        for fd in found:
            os.close(fd)
        raise
    return found


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return syscall(number("bpf"), command, buffer, len(attributes), what=f"bpf({command})")
