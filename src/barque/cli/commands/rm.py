"""``rm``: remove containers."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.commands.each import each
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, Flag
from barque.client.engine import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values


def _rm(app: App, values: Values) -> int:
    query = {"v": values["volumes"] or None, "link": values["link"] or None, "force": values["force"] or None}

    def remove(name: str) -> None:
        if not name.strip("/"):
            raise CommandError("container name cannot be empty")
        try:
            app.engine.delete(f"/containers/{name.strip('/')}", query)
        except ApiError as error:
            if not (values["force"] and error.status == 404):
                raise
            app.err(str(error))
            raise _Gone from None

    errors = []
    for name in values.arguments:
        try:
            each(app, [name], remove)
        except _Gone:
            continue
        except CommandError as error:
            errors.append(error.message)
    if errors:
        raise CommandError("\n".join(errors))
    return 0


class _Gone(Exception):
    """There was nothing to remove, which ``--force`` takes for success."""


RM = Command("rm", "[OPTIONS] CONTAINER [CONTAINER...]", "Remove one or more containers", _rm, least=1, flags=lambda: [
    Flag("force", "f", BOOL, "Remove a running container too (it is killed)"),
    Flag("link", "l", BOOL, "Remove the link of this name"),
    Flag("volumes", "v", BOOL, "Remove the container's anonymous volumes"),
], aliases="container rm, container remove, rm", examples="""
barque rm web
barque rm -f -v web
""")
