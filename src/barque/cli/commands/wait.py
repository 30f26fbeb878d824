"""``wait``."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.errors import CommandError
from barque.client.engine import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values


def _wait(app: App, values: Values) -> int:
    errors = []
    for name in values.arguments:
        try:
            answer = app.engine.post(f"/containers/{name}/wait")
        except ApiError as error:
            errors.append(str(error))
            continue
        app.line(str(answer.get("StatusCode", 0)))
        app.flush()
    if errors:
        raise CommandError("\n".join(errors))
    return 0


WAIT = Command("wait", "CONTAINER [CONTAINER...]",
               "Block until one or more containers stop, then print their exit codes", _wait, least=1,
               aliases="container wait, wait", examples="barque wait web")
