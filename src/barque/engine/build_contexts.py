"""Where the files of a build come from: the request, an address, a repository, a directory on this machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from barque.build import context as contexts
from barque.build.context import BuildContext
from barque.build.kept import KeptFiles
from barque.build.options import BuildOptions
from barque.build.parts import Parts
from barque.build.remote import parse_git
from barque.build.steps.files import is_git
from barque.errors import InvalidArgument
from barque.sys.beneath import open_in_root

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: What a Dockerfile without files is called in the address of a build: ``docker build URL`` of a plain text.
_ARCHIVES = ("application/x-tar", "application/tar", "application/x-gzip", "application/gzip", "application/x-bzip2",
             "application/x-xz", "application/zstd", "application/octet-stream")


@dataclass(frozen=True)
class Request:
    """``directory``: a descriptor of the client's own directory, which stays the caller's, -1 where the files come as
    an archive in ``body``; else ``body`` is a Dockerfile that is not in it, if there is one. ``dockerfile``: the text
    of one that is not among the files, wherever they come from. ``equip``: called with the Dockerfile once it is known,
    for the options with what the client keeps until then. ``kept``: files of an earlier build, which ``body`` changes.
    """

    body: AsyncIterator[bytes]
    directory: int = -1
    dockerfile: str = ""
    equip: Callable[[str], Awaitable[BuildOptions]] | None = None
    kept: KeptFiles | None = None


async def prepare(parts: Parts, options: BuildOptions, request: Request, scratch: str,
                  stack: AsyncExitStack) -> BuildContext:
    """The context, good until ``stack`` is closed. Raises BarqueError in docker's words."""
    if request.directory >= 0:
        return await _in_place(options, request)
    if request.kept is not None:
        directory = request.kept.path
    else:
        directory = os.path.join(scratch, "context")
        os.mkdir(directory, 0o755)
    if not options.remote:
        implicit = await contexts.unpack(parts.workers, request.body, directory)
        context = _located(_opened(directory, stack), options, request)
        context.implicit = implicit
        return context
    if is_git(options.remote):
        return _located(await _from_repository(parts, options, scratch, stack), options, request)
    return await _from_address(parts, options, request, scratch, directory, stack)


def _located(directory: int, options: BuildOptions, request: Request) -> BuildContext:
    if request.dockerfile:
        return BuildContext(directory, request.dockerfile)
    return contexts.locate(directory, options.dockerfile)


async def _in_place(options: BuildOptions, request: Request) -> BuildContext:
    """The client's directory is read where it is; ``<Dockerfile>.dockerignore`` wins over ``.dockerignore``."""
    text = b""
    async for piece in request.body:
        text += piece
        if len(text) > contexts.MAX_DOCKERFILE:
            raise InvalidArgument("the Dockerfile is too long")
    if text:
        context = BuildContext(request.directory, text.decode("utf-8", "replace"))
    else:
        context = await asyncio.to_thread(contexts.find, request.directory, options.dockerfile)
    own = None if text else context.read(f"{options.dockerfile}.dockerignore")
    ignore = own if own is not None else context.read(contexts.IGNORE_FILE) or b""
    context.ignore = contexts.ignore_patterns(ignore)
    return context


async def _from_repository(parts: Parts, options: BuildOptions, scratch: str, stack: AsyncExitStack) -> int:
    address = parse_git(options.remote)
    root = await parts.fetcher.clone(address, scratch, keep_git_dir=False)
    top = _opened(root, stack)
    try:
        fd = open_in_root(top, address.subdirectory or ".", _DIRECTORY)
    except OSError as error:
        raise InvalidArgument(f"unable to prepare context: {address.subdirectory}: "
                              f"{os.strerror(error.errno or 0).lower()}") from None
    stack.callback(os.close, fd)
    await asyncio.to_thread(contexts.apply_ignore_file, fd, options.dockerfile)
    return fd


async def _from_address(parts: Parts, options: BuildOptions, request: Request, scratch: str, directory: str,
                        stack: AsyncExitStack) -> BuildContext:
    if not options.remote.startswith(("http://", "https://")):
        raise InvalidArgument(f"remote URL ({options.remote}) could not be used as a build context")
    download = await parts.fetcher.download(options.remote, scratch)
    path = os.path.join(download.directory, download.name or "__unnamed__")
    if download.content_type in _ARCHIVES:
        with open(path, "rb") as file:  # noqa: ASYNC230 - a local file; its content is read in threads
            await contexts.unpack(parts.workers, _blocks(file.fileno()), directory)
        fd = _opened(directory, stack)
        await asyncio.to_thread(contexts.apply_ignore_file, fd, options.dockerfile)
        return _located(fd, options, request)
    text = BuildContext(_opened(download.directory, stack), "").read(os.path.basename(path))
    if not text:
        raise contexts.EmptyDockerfile(name=options.remote)
    return BuildContext(None, text.decode("utf-8", "replace"))


def _opened(directory: str, stack: AsyncExitStack) -> int:
    fd = os.open(directory, _DIRECTORY)
    stack.callback(os.close, fd)
    return fd


async def _blocks(fd: int) -> AsyncIterator[bytes]:
    while block := await asyncio.to_thread(os.read, fd, 1 << 20):
        yield block
