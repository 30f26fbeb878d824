"""Why a process could not be started, in dockerd's and runc's words: clients take their exit codes from these texts."""

from __future__ import annotations

import errno
import os

from barque.errors import BarqueError, InvalidArgument
from barque.runtime.failure import RuntimeFailure

_CREATE = ("failed to create task for container: failed to create shim task: OCI runtime create failed: runc create "
           "failed: unable to start container process: error during container init: {reason}: unknown")
_EXEC = ("OCI runtime exec failed: exec failed: unable to start container process: {reason}: unknown")
#: dockerd looks users up itself, before it asks a runtime.
_USER, _CWD = "user", "cwd"
_NOT_A_DIRECTORY = (": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host "
                    "path exists and is the expected type")


class StartRefused(BarqueError):
    """A container that could not be started. ``status`` is 400 where the command is at fault, else 500."""

    def __init__(self, message: str, status: int, exit_code: int) -> None:
        super().__init__(message)
        self.status = status
        self.exit_code = exit_code


class ExecRefused(InvalidArgument):
    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def reason(failure: RuntimeFailure, command: str) -> str:
    """runc's sentence for ``failure``."""
    if failure.detail:
        return failure.detail
    text = os.strerror(failure.errno).lower() if failure.errno else "failed"
    if failure.stage == "exec":
        if failure.errno == errno.ENOENT and "/" not in command:
            return f'exec: "{command}": executable file not found in $PATH'
        where = f"stat {command}: " if failure.errno == errno.ENOENT else ""
        return f'exec: "{command}": {where}{text}'
    return str(failure)


def exit_code(failure: RuntimeFailure, text: str) -> int:
    """127 where something was not found, 126 where it may not be executed, 128 for the rest (as dockerd has it)."""
    if failure.stage == "exec":
        return failure.exit_code
    lowered = text.lower()
    if "executable file not found" in lowered or "no such file or directory" in lowered or "not a directory" in lowered:
        return 127
    return 126 if "permission denied" in lowered or "is a directory" in lowered else 128


def start_refused(failure: RuntimeFailure, command: str) -> StartRefused:
    if failure.stage == _USER:
        return StartRefused(reason(failure, command), 500, 128)
    if failure.stage == _CWD and failure.errno == errno.ENOTDIR:
        return StartRefused(f"Cannot mkdir: {failure.path} is not a directory", 500, 128)
    text = _CREATE.format(reason=reason(failure, command))
    if failure.errno == errno.ENOTDIR:
        text += _NOT_A_DIRECTORY
    code = exit_code(failure, text)
    return StartRefused(text, 500 if code == 128 else 400, code)


def log_refused(reason: str) -> StartRefused:
    return StartRefused(f"failed to create task for container: failed to initialize logging driver: {reason}", 500, 128)


def exec_refused(failure: RuntimeFailure, command: str) -> ExecRefused:
    if failure.stage == _USER:
        return ExecRefused(reason(failure, command), 126)
    text = _EXEC.format(reason=reason(failure, command))
    code = exit_code(failure, text)
    return ExecRefused(text, 126 if code == 128 else code)
