"""Pseudo-terminals (pty(7), ioctl_tty(2))."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441


def open_slave(master: int) -> int:
    """Unlock ``master`` and open its other end, without any path, so that nobody can put another file in the way."""
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    return int(fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))


def set_size(fd: int, height: int, width: int) -> None:
    """The window size in characters; the foreground process group gets SIGWINCH if it changes."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def get_size(fd: int) -> tuple[int, int]:
    """(height, width) in characters."""
    height, width, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
    return height, width


def change_output(fd: int, *, on: int = 0, off: int = 0) -> None:
    """Set and clear output modes (c_oflag of termios(3))."""
    attributes = termios.tcgetattr(fd)
    attributes[1] = attributes[1] & ~off | on
    termios.tcsetattr(fd, termios.TCSANOW, attributes)


def keep_newlines(fd: int) -> None:
    """Without the carriage return that a new terminal adds: for whoever relays it to a terminal, or to a pipe."""
    change_output(fd, off=termios.ONLCR)


def make_controlling(fd: int) -> None:
    """Make ``fd`` the controlling terminal of the calling session leader, which must have none."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
