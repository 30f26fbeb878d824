"""Failures of a command, with the exit code and the text they end in."""

from __future__ import annotations


class ExitCode(Exception):
    """Leave with ``code``; what had to be said was said, or is ``message``."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class CommandError(ExitCode):
    """The command failed: ``message`` goes to stderr, exit code 1."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(code, message)


class UsageError(ExitCode):
    """The command line makes no sense: docker leaves with 125 for flags and 1 for arguments."""
