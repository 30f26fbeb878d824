"""Where ``build`` puts its results: what ``--output``, ``--cache-to`` and ``--metadata-file`` name on this side."""

from __future__ import annotations

import os

from barque.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from barque.cli.app import App
    from barque.client.http import Response

_KINDS = ("local", "tar", "oci", "docker", "image", "registry")
_TO_FILE = ("tar", "oci", "docker")
_BLOCK = 1 << 20


class Target:
    """One ``--output``: its type, what else was said of it, and where it goes here ("-" is standard output)."""

    def __init__(self, kind: str, attrs: dict[str, str]) -> None:
        self.kind = kind
        self.attrs = attrs

    @property
    def destination(self) -> str:
        return self.attrs.get("dest", "")


def parse_output(text: str) -> Target:
    """``type=TYPE,dest=PATH,...``; a path alone is a directory, ``-`` an archive on standard output."""
    if "=" not in text:
        return Target("tar", {"dest": "-"}) if text == "-" else Target("local", {"dest": text})
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    kind = fields.pop("type", "")
    if kind not in _KINDS:
        raise CommandError(f"invalid output {text}: its type is one of {', '.join(_KINDS)}")
    if kind == "local" and not fields.get("dest"):
        raise CommandError("an output of type local needs dest=DIRECTORY")
    if kind in ("tar", "oci"):
        fields.setdefault("dest", "-")
    if kind in _TO_FILE and fields.get("dest") == "-" and os.isatty(1):
        raise CommandError(f"an output of type {kind} is not written to a terminal: give it dest=FILE")
    return Target(kind, fields)


def wants_stdout(targets: list[Target]) -> bool:
    return any(target.destination == "-" for target in targets)


def fetch(app: App, token: str, target: Target) -> None:
    """Take an archive that the engine has announced to where it belongs."""
    from barque.cli.commands.export import write_archive

    response = app.engine.stream("GET", f"/build/outputs/{token}")
    try:
        if target.kind == "local":
            unpack(response, target.destination)
        else:
            write_archive(response, "" if target.destination == "-" else target.destination)
    finally:
        response.close()


def unpack(response: Response, directory: str) -> None:
    """The files into ``directory``, as this user's; nothing lands outside, and devices are left out."""
    import tarfile

    os.makedirs(directory, exist_ok=True)
    try:
        with tarfile.open(fileobj=_Reader(response), mode="r|") as archive:  # type: ignore[call-overload]
            for entry in archive:
                if entry.isdev():
                    continue
                entry.uid, entry.gid, entry.uname, entry.gname = os.geteuid(), os.getegid(), "", ""
                archive.extract(entry, directory, numeric_owner=True, filter="tar")
    except tarfile.TarError as error:
        raise CommandError(f"the result of the build cannot be extracted: {error}") from None


class _Reader:
    """The body of a response as a file."""

    def __init__(self, response: Response) -> None:
        self._chunks = response.chunks()
        self._rest = b""

    def read(self, size: int) -> bytes:
        pieces, length = [self._rest], len(self._rest)
        while length < size and (chunk := next(self._chunks, b"")):
            pieces.append(chunk)
            length += len(chunk)
        data = b"".join(pieces)
        self._rest = data[size:]
        return data[:size]


def import_cache(app: App, directory: str) -> None:
    """``--cache-from type=local``: take the OCI layout in ``directory`` into the engine's cache."""
    if not os.path.isfile(os.path.join(directory, "index.json")):
        app.err(f"WARNING: no build cache in {directory}")
        return
    app.engine.request("POST", "/build/cache/steps", None, _packed(directory), {"Content-Type": "application/x-tar"})


def _packed(directory: str) -> Iterator[bytes]:
    """The files of an OCI layout as a tar archive."""
    import tarfile

    for folder, _, names in os.walk(directory):
        for name in sorted(names):
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                info = tarfile.TarInfo(os.path.relpath(path, directory))
                info.size = os.fstat(file.fileno()).st_size
                yield info.tobuf(tarfile.PAX_FORMAT)
                left = info.size
                while left and (block := file.read(min(left, _BLOCK))):
                    left -= len(block)
                    yield block
                yield b"\0" * (-info.size % tarfile.BLOCKSIZE)
    yield b"\0" * 2 * tarfile.BLOCKSIZE


def write_text(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CommandError(f"open {path}: {(error.strerror or '').lower()}") from None


def metadata(document: dict[str, Any]) -> str:
    import json

    return json.dumps(document, indent=2) + "\n"
