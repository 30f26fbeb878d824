"""Terminals: raw mode with a way back, size, detach keys."""

from __future__ import annotations

import os
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_DETACH = b"\x10\x11"  # ctrl-p, ctrl-q


class RawMode:
    """Puts the terminal on ``fd`` into raw mode; restore() may be called any number of times."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[Any] | None = termios.tcgetattr(fd)
        mode = termios.tcgetattr(fd)
        mode[0] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
                     | termios.ICRNL | termios.IXON)
        mode[1] &= ~termios.OPOST
        mode[2] = (mode[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        mode[6][termios.VMIN] = 1
        mode[6][termios.VTIME] = 0
        termios.tcsetattr(fd, termios.TCSANOW, mode)

    def restore(self) -> None:
        if self._saved is not None:
            termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)
            self._saved = None


def size(fd: int) -> tuple[int, int]:
    """(rows, columns), zeros where ``fd`` is no terminal."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return rows, columns


def detach_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` or ``a,b`` into the bytes that they send; raises ValueError in docker's words."""
    if not text:
        return DEFAULT_DETACH
    out = bytearray()
    for key in text.split(","):
        if len(key) == 1:
            out += key.encode()
            continue
        letter = key.removeprefix("ctrl-")
        if letter == key or len(letter) != 1 or not ("a" <= letter <= "z" or letter in "@[\\]^_"):
            raise ValueError(f"invalid detach keys ({text}): Unknown character: '{key}'")
        out.append(ord(letter.upper()) & 0x1F)
    return bytes(out)


class DetachFilter:
    """Passes input through, holding back what may be the start of the detach sequence."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to send on, whether the sequence is complete)."""
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(out), True
                continue
            out += self._keys[: self._matched]
            self._matched = 1 if byte == self._keys[0] else 0
            if not self._matched:
                out.append(byte)
        return bytes(out), False
