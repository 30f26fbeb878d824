"""The files that a build may copy: an archive from the client, unpacked into a directory of its own."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from barque.build.ports import Workers
from barque.errors import Internal, InvalidArgument
from barque.oci.patterns import BadPattern, Patterns, read_ignore_file
from barque.store.tar.messages import UnpackRequest
from barque.store.threads import to_the_end
from barque.store.tree import remove_tree, walk
from barque.store.workers import InvalidArchive, UnpackFailed, unpack_layer
from barque.sys.beneath import open_in_root

#: No Dockerfile is longer, in bytes.
MAX_DOCKERFILE = 16 << 20
IGNORE_FILE = ".dockerignore"


class CannotLocateDockerfile(InvalidArgument):
    text = "Cannot locate specified Dockerfile: {name}"


class EmptyDockerfile(InvalidArgument):
    text = "the Dockerfile ({name}) cannot be empty"


class BadContext(InvalidArgument):
    text = "Error processing tar file(exit status 1): {reason}"


class ContextFailed(Internal):
    """The machine is at fault."""

    text = "Error processing tar file(exit status 1): {reason}"


class BadDockerfilePath(InvalidArgument):
    text = "the Dockerfile ({name}) must be within the build context"


@dataclass
class BuildContext:
    """``fd`` is the directory with the files; None for a build without files.

    ``implicit`` are directories that its archive did not describe. ``ignore``: the patterns of ``.dockerignore`` for a
    directory of the client's, which is read where it is; None for one in the scratch space, where they are applied.
    """

    fd: int | None
    dockerfile: str
    implicit: list[bytes] = field(default_factory=list)
    ignore: list[str] | None = None

    def read(self, name: str, limit: int = MAX_DOCKERFILE) -> bytes | None:
        """A regular file of the context, links followed within it; None where there is none."""
        if self.fd is None:
            return None
        try:
            fd = open_in_root(self.fd, name, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        with open(fd, "rb") as file:
            try:
                data = file.read(limit + 1)
            except IsADirectoryError:
                return None
        return data if len(data) <= limit else None


class ScratchSpace:
    """Directories for the time of one build below ``root``; what a crash leaves goes at boot."""

    def __init__(self, root: str) -> None:
        self.root = root

    async def clean(self) -> None:
        """Remove everything. Called before any build."""
        def clean() -> None:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            for name in os.listdir(self.root):
                self._remove(name)

        await to_the_end(clean)

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[str]:
        """A fresh directory, removed at the end of the block."""
        name = secrets.token_hex(16)
        path = os.path.join(self.root, name)
        os.mkdir(path, 0o700)
        try:
            yield path
        finally:
            await to_the_end(self._remove, name)

    def _remove(self, name: str) -> None:
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(fd, name)
        finally:
            os.close(fd)


async def unpack(workers: Workers, chunks: AsyncIterator[bytes], directory: str) -> list[bytes]:
    """Unpack the archive (compressed or not) into ``directory``, in a worker that cannot leave it.

    Returns the directories that it does not describe. Raises :class:`BadContext`, :class:`ContextFailed`; nothing
    more of ``chunks`` is read then.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    feeding = asyncio.ensure_future(_feed(chunks, writing))
    try:
        result = await unpack_layer(workers, reading, directory, UnpackRequest(whiteouts=False))
        await feeding
        return result.implicit_dirs
    except InvalidArchive as error:
        raise BadContext(reason=error.fields["reason"]) from None
    except UnpackFailed as error:
        raise ContextFailed(reason=error.fields["reason"]) from None
    finally:
        os.close(reading)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def _feed(chunks: AsyncIterator[bytes], pipe: int) -> None:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(pipe, "wb"))
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    transport.set_write_buffer_limits(4 << 20)
    try:
        async for chunk in chunks:
            if transport.is_closing():
                return  # the worker has seen enough
            writer.write(chunk)
            await writer.drain()
    except (BrokenPipeError, ConnectionResetError):
        return
    finally:
        transport.close()


def locate(directory: int, name: str) -> BuildContext:
    """As :func:`find`; what ``.dockerignore`` says of the Dockerfile and of itself is done."""
    context = find(directory, name)
    _hide(context, name if context.read(name) is not None else name.lower())
    return context


def find(directory: int, name: str) -> BuildContext:
    """The context in ``directory`` with the Dockerfile ``name``.

    Raises :class:`CannotLocateDockerfile`, :class:`EmptyDockerfile`.
    """
    context = BuildContext(directory, "")
    if os.path.normpath("/" + name) != os.path.normpath("/" + name.lstrip("/")) or ".." in name.split("/"):
        raise BadDockerfilePath(name=name)
    data = context.read(name)
    if data is None and name == "Dockerfile":
        data = context.read("dockerfile")
    if data is None:
        raise CannotLocateDockerfile(name=name)
    if not data:
        raise EmptyDockerfile(name=name)
    context.dockerfile = data.decode("utf-8", "replace")
    return context


def _hide(context: BuildContext, dockerfile: str) -> None:
    """A Dockerfile and a ``.dockerignore`` that the latter names are sent by clients, but are no part of the files."""
    ignore = context.read(IGNORE_FILE)
    if ignore is None or context.fd is None:
        return
    patterns = Patterns(ignore_patterns(ignore))
    for name in (IGNORE_FILE, dockerfile):
        if patterns.matches(name):
            parent, _, base = name.rpartition("/")
            try:
                fd = open_in_root(context.fd, parent or ".", os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.unlink(base, dir_fd=fd)
                finally:
                    os.close(fd)
            except FileNotFoundError:
                continue


def ignore_patterns(data: bytes) -> list[str]:
    """The patterns of a ``.dockerignore``; raises InvalidArgument where there are wrong ones among them."""
    found = read_ignore_file(data.decode("utf-8", "surrogateescape"))
    try:
        Patterns(found)
    except BadPattern as error:
        raise InvalidArgument(f"Error checking context: '{error}'.") from None
    return found


def apply_ignore_file(directory: int, keep: str) -> None:
    """Remove what ``.dockerignore`` names from a context that no client has filtered; ``keep`` is the Dockerfile."""
    context = BuildContext(directory, "")
    data = context.read(IGNORE_FILE)
    if data is None:
        return
    patterns = Patterns(ignore_patterns(data))
    doomed: list[bytes] = []
    for _, path, directories, others in walk(directory):
        prefix = b"".join(part + b"/" for part in path)
        for name in (*others, *directories):
            whole = os.fsdecode(prefix + name)
            if patterns.matches(whole) and whole not in (keep, IGNORE_FILE):
                doomed.append(prefix + name)
    _delete(directory, doomed)


def _delete(directory: int, doomed: list[bytes]) -> None:
    for name in reversed(doomed):  # what is in a directory before the directory, which stays where something is kept
        parent, _, base = name.rpartition(b"/")
        fd = open_in_root(directory, parent or b".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.unlink(base, dir_fd=fd)
        except IsADirectoryError:
            try:
                os.rmdir(base, dir_fd=fd)
            except OSError:
                continue
        finally:
            os.close(fd)
