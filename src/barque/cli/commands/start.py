"""``start``."""

from __future__ import annotations

import os

from barque.cli.command import Command
from barque.cli.commands.create_flags import detach_flag
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, STRING, Flag
from barque.client.engine import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values


def _start(app: App, values: Values) -> int:
    if values["attach"] or values["interactive"]:
        if len(values.arguments) > 1:
            raise CommandError("you cannot start and attach multiple containers at once")
        return _start_attached(app, values, values.arguments[0])
    if values["checkpoint"] and len(values.arguments) > 1:
        raise CommandError("you cannot restore multiple containers at once")
    failed = []
    for name in values.arguments:
        try:
            app.engine.post(f"/containers/{name}/start", _query(values))
        except ApiError as error:
            app.err(str(error))
            failed.append(name)
        else:
            app.line(name)
            app.flush()
    if failed:
        raise CommandError(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _query(values: Values) -> dict[str, object]:
    return {"checkpoint": values["checkpoint"] or None, "checkpoint-dir": values["checkpoint-dir"] or None}


def keys_of(app: App, values: Values) -> tuple[str, bytes]:
    """The detach keys as text for the engine and as bytes for us."""
    from barque.cli.tty import detach_keys

    text = values["detach-keys"] or (app.config.text("detachKeys") if app.has_config() else "")
    try:
        return text, detach_keys(text)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _start_attached(app: App, values: Values, name: str) -> int:
    from barque.cli.session import attach, exit_code, session, wait_for_exit

    text, keys = keys_of(app, values)
    details = app.engine.get(f"/containers/{name}/json")
    container, tty = details["Id"], details["Config"]["Tty"]
    stdin = values["interactive"] and details["Config"]["OpenStdin"]
    if stdin and tty and not os.isatty(0):
        raise CommandError("the input device is not a TTY")
    stream = attach(app, container, stdin=stdin, stdout=True, stderr=True, keys=text)
    wait = wait_for_exit(app, container, removed=bool(details["HostConfig"].get("AutoRemove")))
    current = session(app, stream, container, tty=tty, stdin=stdin, keys=keys, proxy=not tty)
    try:
        app.engine.post(f"/containers/{container}/start", _query(values))
        current.resize_now()
        answer = current.run(wait)
    finally:
        current.close()
    return 0 if current.detached else exit_code(app, answer)


START = Command("start", "[OPTIONS] CONTAINER [CONTAINER...]", "Start one or more stopped containers", _start, least=1,
                flags=lambda: [
                    Flag("attach", "a", BOOL, "Attach STDOUT/STDERR and pass signals on"),
                    Flag("checkpoint", "", STRING, "Restore from this checkpoint"),
                    Flag("checkpoint-dir", "", STRING, "Directory of the checkpoints"),
                    detach_flag(),
                    Flag("interactive", "i", BOOL, "Attach the container's STDIN"),
                ], aliases="container start, start", examples="""
barque start web
barque start -ai shell
""")
