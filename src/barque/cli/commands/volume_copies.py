"""``volume clone``, ``export``, ``import``, ``rename``: what docker has not."""

from __future__ import annotations

import os

from barque.cli.command import Command
from barque.cli.commands.export import check_output, write_archive
from barque.cli.commands.load import chunks, open_input
from barque.cli.errors import CommandError
from barque.cli.flags import LIST, STRING, Flag
from barque.cli.spec import checks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values


def _clone(app: App, values: Values) -> int:
    name, new = values.arguments
    labels = dict(item.partition("=")[::2] for item in values["label"]) if values["label"] else None
    app.line(app.engine.post(f"/volumes/{name}/clone", None, {"Name": new, "Labels": labels})["Name"])
    return 0


def _export(app: App, values: Values) -> int:
    check_output(values["output"], "export volume")
    response = app.engine.stream("GET", f"/volumes/{values.arguments[0]}/export")
    app.flush()
    write_archive(response, values["output"])
    return 0


def _import(app: App, values: Values) -> int:
    name, *source = values.arguments
    path = source[0] if source else "-"
    if path == "-" and os.isatty(0):
        raise CommandError("requested import from stdin, but stdin is a terminal")
    fd = 0 if path == "-" else open_input(path)
    response = app.engine.stream("POST", f"/volumes/{name}/import", None, chunks(fd),
                                 {"Content-Type": "application/x-tar"})
    app.line(response.json()["Name"])
    return 0


def _rename(app: App, values: Values) -> int:
    name, new = values.arguments
    app.engine.post(f"/volumes/{name}/rename", {"name": new})
    return 0


CLONE = Command("volume clone", "[OPTIONS] VOLUME NEW", "Make a volume with what another one has", _clone, least=2,
                most=2, flags=lambda: [Flag("label", "", LIST, "Set metadata, in place of the other one's",
                                            check=checks.label)],
                examples="barque volume clone data data-before-upgrade")
EXPORT = Command("volume export", "[OPTIONS] VOLUME", "Write what a volume has to a tar archive", _export, least=1,
                 most=1, flags=lambda: [Flag("output", "o", STRING, "Write to a file instead of STDOUT")],
                 examples="barque volume export -o data.tar data")
IMPORT = Command("volume import", "VOLUME [FILE|-]", "Unpack a tar archive into a volume, which is made if need be",
                 _import, least=1, most=2, examples="barque volume import data data.tar")
RENAME = Command("volume rename", "VOLUME NEW", "Rename a volume that no container has", _rename, least=2, most=2,
                 examples="barque volume rename data old-data")
