"""``load``, ``save``, ``import``."""

from __future__ import annotations

import os
import sys

from barque.cli.command import Command
from barque.cli.commands.export import check_output, write_archive
from barque.cli.commands.pull import parse_reference, platform_document, show_stream
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, LIST, STRING, STRING_ARRAY, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from barque.cli.app import App
    from barque.cli.flags import Values

CHUNK = 256 * 1024


def chunks(fd: int) -> Iterator[bytes]:
    while data := os.read(fd, CHUNK):
        yield data


def open_input(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CommandError(f"open {path}: {(error.strerror or '').lower()}") from None


def _load(app: App, values: Values) -> int:
    if not values["input"] and os.isatty(0):
        raise CommandError("requested load from stdin, but stdin is empty")
    fd = open_input(values["input"]) if values["input"] else 0
    quiet = values["quiet"] or not sys.stdout.isatty()
    query = {"quiet": "1" if quiet else "0",
             "platform": [platform_document(text) for text in values["platform"]] or None}
    response = app.engine.stream("POST", "/images/load", query, chunks(fd), {"Content-Type": "application/x-tar"})
    if "json" in response.headers.get("content-type", ""):
        show_stream(response, to_stderr=False)
    else:
        write_archive(response, "")
    return 0


def _save(app: App, values: Values) -> int:
    check_output(values["output"], "save image")
    query = {"names": values.arguments, "platform": [platform_document(text) for text in values["platform"]] or None}
    response = app.engine.stream("GET", "/images/get", query)
    app.flush()
    write_archive(response, values["output"])
    return 0


def _import(app: App, values: Values) -> int:
    source, *target = values.arguments
    repository = tag = None
    if target:
        reference = parse_reference(target[0])
        repository, tag = reference.familiar_name, reference.tag or None
    remote = source.startswith(("http://", "https://"))
    query = {"fromSrc": source if remote else "-", "repo": repository, "tag": tag, "message": values["message"] or None,
             "changes": list(values["change"]) or None, "platform": values["platform"] or None}
    body = None
    if not remote:
        body = chunks(0 if source == "-" else open_input(source))
    response = app.engine.stream("POST", "/images/create", query, body, {"Content-Type": "text/plain"})
    show_stream(response, to_stderr=False)
    return 0


LOAD = Command("load", "[OPTIONS]", "Load an image from a tar archive or STDIN", _load, most=0, flags=lambda: [
    Flag("input", "i", STRING, "Read from a file instead of STDIN"),
    Flag("platform", "", STRING_ARRAY, "Load only this platform"),
    Flag("quiet", "q", BOOL, "Show no progress"),
], aliases="image load, load", examples="barque load -i images.tar")
SAVE = Command("save", "[OPTIONS] IMAGE [IMAGE...]",
               "Save one or more images to a tar archive (streamed to STDOUT by default)",
               _save, least=1, flags=lambda: [
                   Flag("output", "o", STRING, "Write to a file instead of STDOUT"),
                   Flag("platform", "", STRING_ARRAY, "Save only this platform"),
               ], aliases="image save, save", examples="barque save -o images.tar httpd")
IMPORT = Command("import", "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
                 "Import the contents from a tarball to create a filesystem image", _import, least=1, most=2,
                 flags=lambda: [
                     Flag("change", "c", LIST, "Apply a Dockerfile instruction to the image"),
                     Flag("message", "m", STRING, "Message of the import"),
                     Flag("platform", "", STRING, "Platform of the image"),
                 ], aliases="image import, import", examples="tar -C root -c . | barque import - base:latest")
