"""``logs``."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, STRING, Flag
from barque.cli.format.units import timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values


def _logs(app: App, values: Values) -> int:
    from barque.cli.stream import copy_frames

    details = app.engine.get(f"/containers/{values.arguments[0]}/json")
    query: dict[str, object] = {
        "stdout": "1", "stderr": "1", "follow": values["follow"] or None, "timestamps": values["timestamps"] or None,
        "details": values["details"] or None, "tail": values["tail"],
    }
    for name in ("since", "until"):
        if values[name]:
            try:
                query[name] = timestamp(values[name])
            except ValueError as error:
                raise CommandError(f'invalid value for "{name}": {error}') from None
    response = app.engine.stream("GET", f"/containers/{details['Id']}/logs", query)
    try:
        copy_frames(response, tty=details["Config"]["Tty"])
    finally:
        response.close()
    return 0


LOGS = Command("logs", "[OPTIONS] CONTAINER", "Fetch the logs of a container", _logs, least=1, most=1, flags=lambda: [
    Flag("details", "", BOOL, "Show extra attributes of the log"),
    Flag("follow", "f", BOOL, "Follow the log"),
    Flag("since", "", STRING, 'Only what is newer than a time ("2013-01-02T13:23:37Z") or a duration ("42m")'),
    Flag("tail", "n", STRING, "Number of lines to show from the end of the log", "all"),
    Flag("timestamps", "t", BOOL, "Show timestamps"),
    Flag("until", "", STRING, 'Only what is older than a time ("2013-01-02T13:23:37Z") or a duration ("42m")'),
], aliases="container logs, logs", examples="""
barque logs -f --tail 20 web
barque logs --since 10m web
""")
