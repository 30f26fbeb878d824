"""``export``, and what commands share that write an archive to a file or stdout."""

from __future__ import annotations

import os

from barque.cli.command import Command
from barque.cli.errors import CommandError
from barque.cli.flags import STRING, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values
    from barque.client.http import Response


def check_output(path: str, what: str) -> None:
    """Refuse a terminal, a directory that is not there, and anything that is no regular file (except /dev/null)."""
    if not path:
        if os.isatty(1):
            raise CommandError(f"cowardly refusing to {what} to a terminal. Use the -o flag or redirect")
        return
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise CommandError(f'failed to {what}: invalid output path: directory "{directory}" does not exist')
    if os.path.isdir(path):
        raise CommandError(f'failed to {what}: invalid output path: "{path}" must be a regular file')


def write_archive(response: Response, path: str) -> None:
    """Copy the body to stdout, or to ``path`` through a temporary file beside it, so that no half archive stays."""
    from barque.cli.stream import write_all

    if not path:
        for chunk in response.chunks():
            write_all(1, chunk)
        return
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as device:
            for chunk in response.chunks():
                device.write(chunk)
        return
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            for chunk in response.chunks():
                file.write(chunk)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _export(app: App, values: Values) -> int:
    check_output(values["output"], "export container")
    response = app.engine.stream("GET", f"/containers/{values.arguments[0]}/export")
    app.flush()
    write_archive(response, values["output"])
    return 0


EXPORT = Command("export", "[OPTIONS] CONTAINER", "Export a container's filesystem as a tar archive", _export, least=1,
                 most=1, flags=lambda: [Flag("output", "o", STRING, "Write to a file instead of STDOUT")],
                 aliases="container export, export", examples="barque export -o web.tar web")
