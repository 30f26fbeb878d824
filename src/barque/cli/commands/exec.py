"""``exec``."""

from __future__ import annotations

import os

from barque.cli.command import Command
from barque.cli.commands.create_flags import detach_flag
from barque.cli.commands.start import keys_of
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, LIST, STRING, Flag
from barque.cli.spec import checks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values


def _request(values: Values, command: list[str], keys_text: str) -> dict[str, Any]:
    environment = list(values["env"])
    if values["env-file"]:
        from barque.cli.spec.files import assignments

        try:
            environment = assignments(list(values["env-file"]), environment, from_environment=True)
        except ValueError as error:
            raise CommandError(str(error)) from None
    attached = not values["detach"]
    body: dict[str, Any] = {
        "User": values["user"], "Privileged": values["privileged"], "Tty": values["tty"],
        "AttachStdin": attached and values["interactive"], "AttachStdout": attached, "AttachStderr": attached,
        "DetachKeys": keys_text, "Env": environment or None, "WorkingDir": values["workdir"], "Cmd": command,
    }
    return body


def _exec(app: App, values: Values) -> int:
    from barque.cli.tty import size

    container, *command = values.arguments
    text, keys = keys_of(app, values)
    body = _request(values, command, text)
    # A container that does not exist counts before a terminal that is missing.
    app.engine.get(f"/containers/{container}/json")
    if body["AttachStdin"] and body["Tty"] and not os.isatty(0):
        raise CommandError("the input device is not a TTY")
    start: dict[str, Any] = {"Detach": values["detach"], "Tty": body["Tty"]}
    if body["Tty"] and os.isatty(1):
        body["ConsoleSize"] = start["ConsoleSize"] = list(size(1))
    exec_id = app.engine.post(f"/containers/{container}/exec", None, body)["Id"]
    if values["detach"]:
        app.engine.post(f"/exec/{exec_id}/start", None, start)
        return 0
    return _attached(app, body, start, exec_id, keys)


def _attached(app: App, body: dict[str, Any], start: dict[str, Any], exec_id: str, keys: bytes) -> int:
    from barque.cli.session import session

    stream = app.engine.hijack(f"/exec/{exec_id}/start", None, start)
    current = session(app, stream, exec_id, tty=body["Tty"], stdin=body["AttachStdin"], keys=keys, kind="exec")
    try:
        current.resize_now()
        current.run(None)
    finally:
        current.close()
    if current.detached:
        raise CommandError("read escape sequence")
    code = app.engine.get(f"/exec/{exec_id}/json").get("ExitCode")
    return int(code or 0)


EXEC = Command("exec", "[OPTIONS] CONTAINER COMMAND [ARG...]", "Execute a command in a running container", _exec,
               least=2,
               interspersed=False, flags=lambda: [
                   Flag("detach", "d", BOOL, "Run the command in the background"),
                   detach_flag(),
                   Flag("env", "e", LIST, "Set environment variables", check=checks.env),
                   Flag("env-file", "", LIST, "Read environment variables from a file"),
                   Flag("interactive", "i", BOOL, "Keep STDIN open even if not attached"),
                   Flag("privileged", "", BOOL, "Give all privileges to the command"),
                   Flag("tty", "t", BOOL, "Allocate a pseudo terminal"),
                   Flag("user", "u", STRING, 'User (format: "<name|uid>[:<group|gid>]")'),
                   Flag("workdir", "w", STRING, "Working directory inside the container"),
               ], aliases="container exec, exec", examples="""
barque exec web cat /etc/os-release
barque exec -it web sh
barque exec -u www-data -e DEBUG=1 web id
""")
