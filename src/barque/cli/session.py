"""Attach, wait and signals around a :class:`~barque.cli.stream.Session`, as run, start, attach and exec need them."""

from __future__ import annotations

import os
import sys

from barque.cli.stream import Session
from barque.client.engine import ApiError, Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.client.http import Response


def attach(app: App, container: str, *, stdin: bool, stdout: bool, stderr: bool, keys: str) -> Response:
    query = {"stream": "1", "stdin": "1" if stdin else None, "stdout": "1" if stdout else None,
             "stderr": "1" if stderr else None, "detachKeys": keys or None}
    return app.engine.hijack(f"/containers/{container}/attach", query)


def wait_for_exit(app: App, container: str, *, removed: bool) -> Response:
    """A wait whose head is here, so that what starts now is waited for. Its body comes with the exit."""
    condition = "removed" if removed else "next-exit"
    return app.engine.stream("POST", f"/containers/{container}/wait", {"condition": condition})


def session(app: App, stream: Response | None, target: str, *, tty: bool, stdin: bool, stdout: bool = True,
            stderr: bool = True, keys: bytes = b"", proxy: bool = False, kind: str = "containers") -> Session:
    """``target`` is a container's id, or with ``kind`` exec an exec's."""

    def kill(name: str) -> None:
        try:
            app.engine.post(f"/containers/{target}/kill", {"signal": name})
        except (ApiError, Unreachable):
            pass  # it ended meanwhile

    def resize(rows: int, columns: int) -> None:
        try:
            app.engine.post(f"/{kind}/{target}/resize", {"h": rows, "w": columns})
        except (ApiError, Unreachable):
            pass  # it ended, or did not start yet

    sys.stdout.flush()
    return Session(stream.connection if stream is not None else None, tty=tty, stdin=stdin, stdout=stdout,
                   stderr=stderr,
                   detach=keys, kill=kill if proxy else None, resize=resize if tty and os.isatty(1) else None)


def exit_code(app: App, answer: Any) -> int:
    """The exit code that a wait answered with."""
    if not answer:
        return 0
    error = answer.get("Error")
    if error and error.get("Message"):
        app.err(f"Error waiting for container: {error['Message']}")
        return 125
    return int(answer.get("StatusCode", 0))
