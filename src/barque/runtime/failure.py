"""The failure of a runtime step as data, so that it can cross processes and be put into words once, at the edge."""

from __future__ import annotations

import errno as errno_names
import os
from typing import Any


class RuntimeFailure(Exception):
    """A step of creating, starting or entering a container that did not work.

    ``stage`` says which step (``"mount /proc"``, ``"exec"``, ``"user"``), ``syscall`` and ``errno`` what the kernel
    refused (empty and 0 when the refusal is our own), ``path`` on what, ``detail`` the reason as one line of prose, in
    runc's words where runc has some.
    """

    def __init__(self, stage: str, *, syscall: str = "", errno: int = 0, path: str = "", detail: str = "") -> None:
        super().__init__(stage, syscall, errno, path, detail)
        self.stage = stage
        self.syscall = syscall
        self.errno = errno
        self.path = path
        self.detail = detail

    def __str__(self) -> str:
        if self.detail:
            return self.detail
        reason = os.strerror(self.errno).lower() if self.errno else "failed"
        call = f"{self.syscall}: " if self.syscall else ""
        return f"{self.stage}: {call}{self.path + ': ' if self.path else ''}{reason}"

    @classmethod
    def of(cls, stage: str, error: BaseException) -> RuntimeFailure:
        """What ``error``, raised by step ``stage``, means. ``barque.sys`` says ``strerror in syscall[: reason]``."""
        if isinstance(error, RuntimeFailure):
            return error
        if not isinstance(error, OSError) or error.errno is None:
            return cls(stage, detail=f"{stage}: {error}" if isinstance(error, ValueError) else
                       f"{stage}: {type(error).__name__}: {error}")
        call, _, reason = (error.strerror or "").partition(" in ")[2].partition(": ")
        # A number where the call was about a descriptor.
        path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        failure = cls(stage, syscall=call, errno=error.errno, path=path)
        if reason:
            failure.detail = f"{failure}: {reason}"
        return failure

    def to_dict(self) -> dict[str, Any]:
        return {"stage": self.stage, "syscall": self.syscall, "errno": self.errno, "path": self.path,
                "detail": self.detail}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RuntimeFailure:
        return cls(str(data["stage"]), syscall=str(data["syscall"]), errno=int(data["errno"]), path=str(data["path"]),
                   detail=str(data["detail"]))

    @property
    def exit_code(self) -> int:
        """What docker makes of a process that could not be started: 127 not found, 126 not executable, else 128."""
        if self.stage != "exec":
            return 128
        return 127 if self.errno == errno_names.ENOENT else 126
