"""``rmi``: remove images."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.commands.pull import platform_document
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, STRING_ARRAY, Flag
from barque.client.engine import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values


def _rmi(app: App, values: Values) -> int:
    platforms = [platform_document(text) for text in values["platform"]]
    query = {"force": values["force"] or None, "noprune": values["no-prune"] or None, "platforms": platforms or None}
    errors, fatal = [], False
    for name in values.arguments:
        try:
            removed = app.engine.delete(f"/images/{name}", query)
        except ApiError as error:
            fatal = fatal or error.status != 404
            errors.append(str(error))
            continue
        for item in removed or ():
            app.line(f"Deleted: {item['Deleted']}" if item.get("Deleted") else f"Untagged: {item['Untagged']}")
    if errors:
        if fatal or not values["force"]:
            raise CommandError("\n".join(errors))
        app.err("\n".join(errors))
    return 0


RMI = Command("rmi", "[OPTIONS] IMAGE [IMAGE...]", "Remove one or more images", _rmi, least=1, flags=lambda: [
    Flag("force", "f", BOOL, "Remove the image although it is in use"),
    Flag("no-prune", "", BOOL, "Keep untagged parents"),
    Flag("platform", "", STRING_ARRAY, "Remove only this platform of the image"),
], aliases="image rm, image remove, rmi", examples="barque rmi httpd:2.4")
