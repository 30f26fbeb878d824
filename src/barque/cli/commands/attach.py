"""``attach``."""

from __future__ import annotations

import os

from barque.cli.command import Command
from barque.cli.commands.create_flags import detach_flag
from barque.cli.commands.start import keys_of
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values


def _running(app: App, name: str) -> Any:
    details = app.engine.get(f"/containers/{name}/json")
    state = details["State"]
    if not state["Running"]:
        raise CommandError("You cannot attach to a stopped container, start it first")
    if state.get("Paused"):
        raise CommandError("You cannot attach to a paused container, unpause it first")
    if state.get("Restarting"):
        raise CommandError("You cannot attach to a restarting container, wait until it is running")
    return details


def _attach(app: App, values: Values) -> int:
    from barque.cli.session import attach, exit_code, session

    text, keys = keys_of(app, values)
    details = _running(app, values.arguments[0])
    container, tty = details["Id"], details["Config"]["Tty"]
    if not values["no-stdin"] and tty and not os.isatty(0):
        raise CommandError("the input device is not a TTY")
    stdin = not values["no-stdin"] and details["Config"]["OpenStdin"]
    wait = app.engine.stream("POST", f"/containers/{container}/wait", {"condition": "not-running"})
    stream = attach(app, container, stdin=stdin, stdout=True, stderr=True, keys=text)
    _running(app, container)
    current = session(app, stream, container, tty=tty, stdin=stdin, keys=keys, proxy=values["sig-proxy"] and not tty)
    try:
        current.nudge()
        answer = current.run(wait)
    finally:
        current.close()
    if current.detached:
        raise CommandError("read escape sequence")
    return exit_code(app, answer)


ATTACH = Command("attach", "[OPTIONS] CONTAINER",
                 "Attach local standard input, output, and error streams to a running container", _attach, least=1,
                 most=1, flags=lambda: [
                     detach_flag(),
                     Flag("no-stdin", "", BOOL, "Do not attach STDIN"),
                     Flag("sig-proxy", "", BOOL, "Pass signals on to the process", True),
                 ], aliases="container attach, attach", examples="barque attach --detach-keys ctrl-x shell")
