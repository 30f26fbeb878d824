"""``cp``: copy between a container and the local filesystem, by the rules of docker's archive endpoints.

What a container sends is extracted with tarfile's ``tar`` filter: nothing lands outside the destination, neither
through ``..`` nor through a link that an earlier entry made.
"""

from __future__ import annotations

import os
import stat
import sys

from barque.cli.command import Command
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, Flag
from barque.cli.format.units import human_size
from barque.client.engine import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values
    from barque.client.http import Response

_BLOCK = 512
_CHUNK = 256 * 1024
#: Go's os.ModeDir and os.ModeSymlink in the stat header.
_GO_DIRECTORY = 1 << 31
_GO_SYMLINK = 1 << 27


def _split(text: str) -> tuple[str, str]:
    """(container, path); a local path has no container: it is absolute or starts with a dot."""
    if os.path.isabs(text):
        return "", text
    container, colon, path = text.partition(":")
    if not colon or container.startswith("."):
        return "", text
    return container, path


def _asserts_directory(path: str) -> bool:
    return path.endswith("/") or os.path.basename(path) == "."


def _stat(app: App, container: str, path: str) -> dict[str, Any] | None:
    """The stat of a path in a container, None where there is nothing."""
    from base64 import b64decode

    from barque import fastjson

    try:
        response = app.engine.stream("HEAD", f"/containers/{container}/archive", {"path": path})
    except ApiError as error:
        if error.status == 404 and "no such container" not in error.message.lower():
            return None
        raise
    header = response.headers.get("x-docker-container-path-stat", "")
    response.close()
    document = fastjson.loads(b64decode(header)) if header else None
    return document if isinstance(document, dict) else None


class _Reader:
    """The body of a response as a file, counting."""

    def __init__(self, response: Response) -> None:
        self._chunks = response.chunks()
        self._rest = b""
        self.count = 0

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            self._rest += chunk
            self.count += len(chunk)
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _from_container(app: App, values: Values, container: str, source: str, target: str) -> int:
    if values["follow-link"]:
        found = _stat(app, container, source)
        if found and int(found.get("mode", 0)) & _GO_SYMLINK and found.get("linkTarget"):
            source = os.path.join(os.path.dirname(source), found["linkTarget"])
    response = app.engine.stream("GET", f"/containers/{container}/archive", {"path": source})
    if target == "-":
        from barque.cli.commands.export import write_archive

        write_archive(response, "")
        return 0
    reader = _Reader(response)
    try:
        _extract(reader, source, target, owners=values["archive"])
    finally:
        response.close()
    if not values["quiet"] and sys.stderr.isatty():
        app.err(f"Successfully copied {human_size(reader.count, 3)} to {os.path.abspath(target)}")
    return 0


def _extract(reader: _Reader, source: str, target: str, *, owners: bool) -> None:
    import tarfile

    try:
        with tarfile.open(fileobj=reader, mode="r|") as archive:  # type: ignore[call-overload]
            first = archive.next()
            if first is None:
                return
            directory, name = _destination(first, source, target)
            top = first.name.rstrip("/")
            entry: tarfile.TarInfo | None = first
            while entry is not None:
                _rename(entry, top, name)
                if not owners:
                    entry.uid, entry.gid, entry.uname, entry.gname = os.geteuid(), os.getegid(), "", ""
                archive.extract(entry, directory, numeric_owner=True, filter="tar")
                entry = archive.next()
    except tarfile.TarError as error:
        raise CommandError(f"the container's archive cannot be extracted: {error}") from None


def _destination(first: tarfile.TarInfo, source: str, target: str) -> tuple[str, str]:
    """(directory to extract into, name that the top entry gets; "." for the contents alone)."""
    top = first.name.rstrip("/")
    if os.path.isdir(target):
        contents = first.isdir() and os.path.basename(source) == "."
        return target, "." if contents else os.path.basename(top)
    if os.path.lexists(target):
        if first.isdir():
            raise CommandError("cannot copy directory")
        if not os.path.isfile(target):
            device = stat.S_IFMT(os.stat(target).st_mode) in (stat.S_IFCHR, stat.S_IFBLK)
            raise CommandError(f'invalid output path: "{target}" must be a directory or a regular file: got '
                               f'{"a device" if device else "an irregular file"}')
    elif _asserts_directory(target) and not first.isdir():
        raise CommandError("no such directory")
    plain = target.rstrip("/")
    parent = os.path.dirname(os.path.abspath(plain))
    if not os.path.isdir(parent):
        raise CommandError(f"invalid output path: directory {parent!r} does not exist".replace("'", '"'))
    return parent, os.path.basename(plain)


def _rename(entry: tarfile.TarInfo, top: str, name: str) -> None:
    """Put an entry, and what a hard link points to, below ``name`` instead of ``top``."""
    def moved(path: str) -> str:
        rest = path.rstrip("/")
        if rest == top:
            return name
        return os.path.join(name, rest.removeprefix(top + "/"))

    entry.name = moved(entry.name)
    if entry.islnk():
        entry.linkname = moved(entry.linkname)


def _to_container(app: App, values: Values, source: str, container: str, target: str) -> int:
    if source != "-":
        try:
            info = os.stat(source) if values["follow-link"] or source.endswith("/") else os.lstat(source)
        except OSError as error:
            raise CommandError(f"lstat {os.path.abspath(source)}: {(error.strerror or '').lower()}") from None
    there = _stat(app, container, target)
    if there and int(there["mode"]) & _GO_SYMLINK and there.get("linkTarget"):
        target = os.path.join(os.path.dirname(target), there["linkTarget"])
        there = _stat(app, container, target)
    is_directory = bool(there and int(there["mode"]) & _GO_DIRECTORY)
    query = {"noOverwriteDirNonDir": "true", "copyUIDGID": "true" if values["archive"] else None}
    if source == "-":
        if not is_directory:
            raise CommandError(f'destination "{container}:{target}" must be a directory')
        from barque.cli.commands.load import chunks

        _put(app, container, {"path": target, **query}, chunks(0))
        return 0
    counter = [0]
    directory, name = _place(source, stat.S_ISDIR(info.st_mode), target, there is not None, is_directory)
    _put(app, container, {"path": directory, **query},
         _count(_archive(source, name, follow=values["follow-link"]), counter))
    if not values["quiet"] and sys.stderr.isatty():
        app.err(f"Successfully copied {human_size(counter[0], 3)} to {container}:{target}")
    return 0


def _put(app: App, container: str, query: dict[str, Any], body: Iterator[bytes]) -> None:
    response = app.engine.stream("PUT", f"/containers/{container}/archive", query, body,
                                 {"Content-Type": "application/x-tar"})
    response.close()


def _place(source: str, source_is_directory: bool, target: str, exists: bool, is_directory: bool) -> tuple[str, str]:
    """(directory in the container, name of the top entry there; "." for the contents alone)."""
    if is_directory:
        contents = source_is_directory and os.path.basename(source) == "."
        return target, "." if contents else os.path.basename(os.path.abspath(source))
    if exists and source_is_directory:
        raise CommandError("cannot copy directory")
    if not exists and _asserts_directory(target) and not source_is_directory:
        raise CommandError("no such directory")
    plain = target.rstrip("/")
    return os.path.dirname(plain) or "/", os.path.basename(plain)


def _count(chunks: Iterator[bytes], counter: list[int]) -> Iterator[bytes]:
    for chunk in chunks:
        counter[0] += len(chunk)
        yield chunk


def _archive(source: str, name: str, *, follow: bool) -> Iterator[bytes]:
    """A tar stream of ``source`` whose top entry is called ``name``."""
    import io
    import tarfile

    top = os.path.realpath(source) if follow else source
    paths = [top]
    with tarfile.open(fileobj=io.BytesIO(), mode="w") as maker:
        while paths:
            path = paths.pop(0)
            relative = os.path.relpath(path, top)
            info = maker.gettarinfo(path, os.path.normpath(os.path.join(name, relative)))
            if info is None:
                continue  # a socket: it has no form in an archive
            info.uname = info.gname = ""
            info.mtime = int(info.mtime)  # a fraction would need a header of its own
            if info.isreg():
                yield from _file(path, info)
            else:
                yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            if info.isdir():
                paths += sorted(os.path.join(path, entry) for entry in os.listdir(path))
    yield b"\0" * (2 * _BLOCK)


def _file(path: str, info: tarfile.TarInfo) -> Iterator[bytes]:
    """Header and content, as long as the header says: a file that shrinks meanwhile is padded with zeros."""
    import tarfile

    with open(path, "rb") as file:
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        left = info.size
        while left:
            data = file.read(min(left, _CHUNK)) or b"\0" * min(left, _CHUNK)
            left -= len(data)
            yield data
    yield b"\0" * (-info.size % _BLOCK)


def _cp(app: App, values: Values) -> int:
    source_container, source = _split(values.arguments[0])
    target_container, target = _split(values.arguments[1])
    if not source or not target:
        raise CommandError("source can not be empty" if not source else "destination can not be empty")
    if source_container and target_container:
        raise CommandError("copying between containers is not supported")
    sys.stdout.flush()
    if source_container:
        return _from_container(app, values, source_container, source, target)
    if target_container:
        return _to_container(app, values, source, target_container, target)
    raise CommandError("must specify at least one container source")


CP = Command("cp", "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tbarque cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
             "Copy files/folders between a container and the local filesystem", _cp, least=2, most=2, flags=lambda: [
                 Flag("archive", "a", BOOL, "Keep owners and groups"),
                 Flag("follow-link", "L", BOOL, "Follow a symbolic link that is the source"),
                 Flag("quiet", "q", BOOL, "Say nothing about what was copied"),
             ], aliases="container cp, cp", examples="""
barque cp web:/usr/local/apache2/conf/httpd.conf .
barque cp site/. web:/usr/local/apache2/htdocs
""")
