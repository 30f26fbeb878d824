"""Assembler for classic BPF (linux/filter.h, linux/bpf_common.h) as seccomp(2) accepts it.

A program is built from its end to its beginning: classic BPF only jumps forward, so every target is already there when
a jump to it is emitted, and the 8-bit offsets of conditional jumps are bridged on the spot where they do not reach.
"""

from __future__ import annotations

import struct
from typing import Final

#: struct sock_filter: u16 code, u8 jt, u8 jf, u32 k, in the byte order of the machine.
INSTRUCTION: Final = struct.Struct("=HBBI")
#: BPF_MAXINSNS
MAX_INSTRUCTIONS = 4096

LD_W_ABS = 0x20
ALU_AND_K = 0x54
JMP_JA = 0x05
JMP_JEQ_K = 0x15
JMP_JGT_K = 0x25
JMP_JGE_K = 0x35
RET_K = 0x06

_REACH = 255


class ProgramTooLong(ValueError):
    """More than the 4096 instructions that the kernel takes."""


class Label(int):
    """A place in the program: its distance, in instructions, from the end."""


class Assembler:
    """Emits instructions in reverse; each method returns the label of what it emitted."""

    def __init__(self) -> None:
        self._reversed: list[tuple[int, int, int, int]] = []
        self._returns: dict[int, Label] = {}

    def ret(self, value: int) -> Label:
        """Return ``value``; an earlier return of the same value is shared while a conditional jump reaches it."""
        known = self._returns.get(value)
        if known is not None and self._distance(known) < _REACH:
            return known
        label = self._emit(RET_K, 0, 0, value)
        self._returns[value] = label
        return label

    def load(self, offset: int, then: Label) -> Label:
        """A = the 32-bit word at ``offset`` of the data."""
        self._fall_to(then)
        return self._emit(LD_W_ABS, 0, 0, offset)

    def mask(self, value: int, then: Label) -> Label:
        """A &= ``value``."""
        self._fall_to(then)
        return self._emit(ALU_AND_K, 0, 0, value)

    def jump_if(self, code: int, value: int, yes: Label, no: Label) -> Label:
        """Compare A with ``value`` (JMP_JEQ_K, JMP_JGT_K, JMP_JGE_K; unsigned) and go to ``yes`` or ``no``."""
        if yes == no:
            return yes
        yes, no = self._near(yes, spare=1), self._near(no, spare=0)
        return self._emit(code, self._distance(yes), self._distance(no), value)

    def program(self, start: Label) -> bytes:
        """The program that begins at ``start``, as an array of struct sock_filter; raises :class:`ProgramTooLong`."""
        self._fall_to(start)
        if len(self._reversed) > MAX_INSTRUCTIONS:
            raise ProgramTooLong(f"the filter needs {len(self._reversed)} instructions, "
                                 f"the kernel takes {MAX_INSTRUCTIONS}")
        return b"".join(INSTRUCTION.pack(*parts) for parts in reversed(self._reversed))

    def _emit(self, code: int, jt: int, jf: int, k: int) -> Label:
        self._reversed.append((code, jt, jf, k))
        return Label(len(self._reversed) - 1)

    def _distance(self, label: Label) -> int:
        """The offset that an instruction emitted next must hold to reach ``label``."""
        return len(self._reversed) - 1 - label

    def _fall_to(self, label: Label) -> None:
        if self._distance(label):
            self._emit(JMP_JA, 0, 0, self._distance(label))

    def _near(self, label: Label, spare: int) -> Label:
        """``label``, or a bridge to it, reachable even after ``spare`` more instructions."""
        if self._distance(label) + spare <= _REACH:
            return label
        code, _, _, value = self._reversed[label]
        if code == RET_K:
            return self.ret(value)
        return self._emit(JMP_JA, 0, 0, self._distance(label))
