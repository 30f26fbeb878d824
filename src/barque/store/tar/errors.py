"""What is wrong with an archive, in the words of Go's archive/tar and of dockerd."""

from __future__ import annotations


class TarError(Exception):
    """The archive is at fault, not the machine."""


class InvalidHeader(TarError):
    def __init__(self, text: str = "archive/tar: invalid tar header") -> None:
        super().__init__(text)


class FieldTooLong(TarError):
    def __init__(self) -> None:
        super().__init__("archive/tar: header field too long")


class Truncated(TarError):
    def __init__(self) -> None:
        super().__init__("unexpected EOF")


class Refused(TarError):
    """A member that would leave the root, or exceeds a limit."""
