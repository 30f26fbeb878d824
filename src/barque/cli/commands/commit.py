"""``commit``."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.commands.pull import parse_reference
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, LIST, STRING, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values


def _commit(app: App, values: Values) -> int:
    container, *target = values.arguments
    repository = tag = ""
    if target:
        reference = parse_reference(target[0])
        if reference.digest:
            raise CommandError("refusing to create a tag with a digest reference")
        repository, tag = reference.familiar_name, reference.with_default_tag().tag
    query = {"container": container, "repo": repository or None, "tag": tag or None,
             "comment": values["message"] or None,
             "author": values["author"] or None, "changes": list(values["change"]) or None,
             "pause": None if values["pause"] else "0"}
    app.line(app.engine.post("/commit", query)["Id"])
    return 0


COMMIT = Command("commit", "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]", "Create a new image from a container's changes",
                 _commit, least=1, most=2, flags=lambda: [
                     Flag("author", "a", STRING, 'Author ("Jane Doe <jane@example.com>")'),
                     Flag("change", "c", LIST, "Apply a Dockerfile instruction to the image"),
                     Flag("message", "m", STRING, "Message of the commit"),
                     Flag("pause", "p", BOOL, "Pause the container meanwhile", True),
                 ], aliases="container commit, commit", examples="barque commit -c 'CMD [\"sh\"]' web web:patched")
