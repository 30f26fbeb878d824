"""``stop``, ``restart``, ``kill``, ``pause``, ``unpause``, ``rename``."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.commands.each import each
from barque.cli.errors import CommandError
from barque.cli.flags import INT, STRING, Flag
from barque.client.engine import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from barque.cli.app import App
    from barque.cli.flags import Values


def _stop_query(values: Values) -> dict[str, object]:
    if "timeout" in values.changed and "time" in values.changed:
        raise CommandError("conflicting options: cannot specify both --timeout and --time")
    given = next((name for name in ("timeout", "time") if name in values.changed), None)
    return {"signal": values["signal"] or None, "t": values[given] if given else None}


def _post(action: str) -> Callable[[App, Values], int]:
    def run(app: App, values: Values) -> int:
        return each(app, values.arguments, lambda name: app.engine.post(f"/containers/{name}/{action}"))

    return run


def _stop(action: str) -> Callable[[App, Values], int]:
    def run(app: App, values: Values) -> int:
        query = _stop_query(values)
        return each(app, values.arguments, lambda name: app.engine.post(f"/containers/{name}/{action}", query))

    return run


def _kill(app: App, values: Values) -> int:
    query = {"signal": values["signal"] or None}
    return each(app, values.arguments, lambda name: app.engine.post(f"/containers/{name}/kill", query))


def _rename(app: App, values: Values) -> int:
    old, new = (name.strip() for name in values.arguments)
    if not old or not new:
        raise CommandError("Error: Neither old nor new names may be empty")
    try:
        app.engine.post(f"/containers/{old}/rename", {"name": new})
    except ApiError as error:
        raise CommandError(f"{error}\nError: failed to rename container named {old}") from None
    return 0


def _stop_flags() -> list[Flag]:
    return [
        Flag("signal", "s", STRING, "Signal to send to the container"),
        Flag("timeout", "t", INT, "Seconds to wait before killing the container"),
        Flag("time", "", INT, "Seconds to wait before killing the container", hidden=True),
    ]


_MANY = "CONTAINER [CONTAINER...]"
STOP = Command("stop", f"[OPTIONS] {_MANY}", "Stop one or more running containers", _stop("stop"), flags=_stop_flags,
               least=1, aliases="container stop, stop", examples="barque stop --timeout 30 web")
RESTART = Command("restart", f"[OPTIONS] {_MANY}", "Restart one or more containers", _stop("restart"),
                  flags=_stop_flags,
                  least=1, aliases="container restart, restart", examples="barque restart web")
KILL = Command("kill", f"[OPTIONS] {_MANY}", "Kill one or more running containers", _kill, least=1,
               flags=lambda: [Flag("signal", "s", STRING, "Signal to send to the container")],
               aliases="container kill, kill", examples="barque kill --signal HUP web")
PAUSE = Command("pause", _MANY, "Pause all processes within one or more containers", _post("pause"), least=1,
                aliases="container pause, pause", examples="barque pause web")
UNPAUSE = Command("unpause", _MANY, "Unpause all processes within one or more containers", _post("unpause"), least=1,
                  aliases="container unpause, unpause", examples="barque unpause web")
RENAME = Command("rename", "CONTAINER NEW_NAME", "Rename a container", _rename, least=2, most=2,
                 aliases="container rename, rename", examples="barque rename web old-web")
