"""``tag``."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.commands.pull import parse_reference
from barque.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values


def _tag(app: App, values: Values) -> int:
    source, target = values.arguments
    try:
        reference = parse_reference(target)
    except CommandError as error:
        raise CommandError(f'Error parsing reference: "{target}" is not a valid repository/tag: '
                           f"{error.message}") from None
    if reference.digest:
        raise CommandError("refusing to create a tag with a digest reference")
    reference = reference.with_default_tag()
    app.engine.post(f"/images/{source}/tag", {"repo": reference.familiar_name, "tag": reference.tag})
    return 0


TAG = Command("tag", "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
              _tag,
              least=2, most=2, aliases="image tag, tag", examples="barque tag httpd localhost:5000/httpd:tested")
