"""``context export`` and ``import``: a context as the archive that docker writes (``meta.json``, ``tls/docker/*``)."""

from __future__ import annotations

import io
import os
import sys

from barque import fastjson
from barque.cli.command import Command
from barque.cli.commands.context import describe, store_of
from barque.cli.errors import CommandError
from barque.client.contexts import DEFAULT, TLS_NAMES, ContextError, check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

#: No context is larger, as docker has it.
MAX_ARCHIVE = 10 << 20
MAX_ENTRIES = 64
_TLS = "tls/docker/"


def _export(app: App, values: Values) -> int:
    name, *rest = values.arguments
    target = rest[0] if rest else f"{name}.dockercontext"
    store = store_of(app)
    try:
        if name == DEFAULT:
            described = describe(app, store, name)
            data = _pack({key: described[key] for key in ("Name", "Metadata", "Endpoints")}, {})
        else:
            check_name(name)
            data = _pack(store.load(name), store.tls_contents(name))
    except ContextError as error:
        raise CommandError(str(error)) from None
    if target == "-":
        if sys.stdout.isatty():
            raise CommandError("cowardly refusing to export to a terminal, specify a file path")
        sys.stdout.buffer.write(data)
        return 0
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
    app.err(f'Written file "{target}"')
    return 0


def _pack(document: dict[str, Any], tls: dict[str, bytes]) -> bytes:
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        _add(archive, "meta.json", fastjson.dumps(document).encode(), 0o644)
        for directory in ("tls", "tls/docker") if tls else ():
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(entry)
        for file, content in tls.items():
            _add(archive, _TLS + file, content, 0o600)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    import tarfile

    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _import(app: App, values: Values) -> int:
    name, source = values.arguments
    store = store_of(app)
    try:
        check_name(name)
        if name in store.names():
            raise ContextError(f'context "{name}" already exists')
        document, tls = _unpack(_read(source))
        store.save({**document, "Name": name}, tls)
    except ContextError as error:
        raise CommandError(str(error)) from None
    app.line(name)
    app.err(f'Successfully imported context "{name}"')
    return 0


def _read(source: str) -> bytes:
    with (open(0, "rb", closefd=False) if source == "-" else open(source, "rb")) as file:
        data = file.read(MAX_ARCHIVE + 1)
    if len(data) > MAX_ARCHIVE:
        raise ContextError("read exceeds the defined limit")
    return data


def _unpack(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The context's document and certificates; raises :class:`ContextError` for anything else in the archive."""
    document: Any = None
    tls: dict[str, bytes] = {}
    for name, content in _entries(data):
        if name == "meta.json":
            document = fastjson.loads(content)
        elif name.startswith(_TLS) and name[len(_TLS):] in TLS_NAMES.values():
            tls[name[len(_TLS):]] = content
        else:
            raise ContextError(f"unexpected context file: {name}")
    if not isinstance(document, dict) or not isinstance(document.get("Endpoints"), dict):
        raise ContextError("invalid context: no metadata found")
    return document, tls


def _entries(data: bytes) -> Iterator[tuple[str, bytes]]:
    import tarfile
    import zipfile

    total = 0
    try:
        for number, (name, size, content) in enumerate(_zipped(data) if data[:2] == b"PK" else _tarred(data)):
            total += size
            if total > MAX_ARCHIVE or number >= MAX_ENTRIES:
                raise ContextError("read exceeds the defined limit")
            yield name, content()
    except (tarfile.TarError, zipfile.BadZipFile, fastjson.BadJSON) as error:
        raise ContextError(f"invalid context: {error}") from None


def _zipped(data: bytes) -> Iterator[tuple[str, int, Any]]:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield member.filename, member.file_size, lambda member=member: archive.read(member)


def _tarred(data: bytes) -> Iterator[tuple[str, int, Any]]:
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            if member.isreg():
                file = archive.extractfile(member)
                yield member.name, member.size, file.read if file is not None else bytes
            elif not member.isdir():
                raise ContextError(f"unexpected context file: {member.name}")


EXPORT = Command("context export", "CONTEXT [FILE|-]", "Write a context to a tar archive, or to STDOUT", _export,
                 least=1, most=2, examples="barque context export far far.tar")
IMPORT = Command("context import", "CONTEXT FILE|-", "Make a context of a tar or zip archive", _import, least=2, most=2,
                 examples="barque context import far far.tar")
