"""One build that a client of BuildKit has asked for: files from its session, the builder, results back to it."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from barque.api.buildkit import agents, filesend, filesync, request
from barque.api.buildkit.board import Board
from barque.api.buildkit.messages import CacheOptionsEntry, Exporter
from barque.api.buildkit.sessions import Session
from barque.api.buildkit.steps import Steps
from barque.build.context import IGNORE_FILE, MAX_DOCKERFILE, CannotLocateDockerfile, EmptyDockerfile
from barque.build.dockerfile.lint import Finding, report
from barque.build.kept import KeptFiles
from barque.build.needs import Needs, needs
from barque.build.options import BuildOptions
from barque.build.output import Send
from barque.engine.build_contexts import Request
from barque.errors import BarqueError, InvalidArgument
from barque.image.client.auth import Credentials
from barque.oci import go_json
from barque.oci.patterns import read_ignore_file

#: How a client names an archive that it sends itself.
_UPLOAD = "http://buildkit-session/"
_LINKS = 8
#: How a client calls the directory that it builds.
_CONTEXT = "context"


class Builder(Protocol):
    async def build(self, options: BuildOptions, request: Request, send: Send) -> str: ...
    async def check(self, options: BuildOptions, request: Request) -> tuple[str, list[Finding]]: ...
    def output(self, token: str) -> AsyncIterator[bytes]: ...
    def kept_files(self, client: str, name: str) -> AbstractAsyncContextManager[KeptFiles | None]: ...


@dataclass(frozen=True)
class Order:
    """What is to be built; ``exporters`` and ``exports`` are those of the solve that the client waits for."""

    attrs: Mapping[str, str]
    exporters: Sequence[Exporter] = ()
    imports: Sequence[CacheOptionsEntry] = ()
    exports: Sequence[CacheOptionsEntry] = ()
    entitlements: Sequence[str] = ()


async def run(builder: Builder, session: Session, order: Order, board: Board) -> dict[str, str]:
    """Build; what the client is told of the result. Raises BarqueError."""
    asked = request.options(order.attrs, order.exporters, order.imports, order.exports, order.entitlements)
    async with AsyncExitStack() as stack:
        sending: list[asyncio.Task[None]] = []

        def offered(token: str, number: int | str) -> None:
            assert isinstance(number, int), "caches are not sent"
            sending.append(asyncio.create_task(_send(builder, session, board, token, order.exporters[number], number)))

        steps = Steps(board, asked, offered)

        async def equip(dockerfile: str) -> BuildOptions:
            steps.dockerfile = dockerfile
            wanted = needs(dockerfile, options)
            steps.expect(wanted.stages)
            return await _equipped(session, options, wanted, stack)

        def send(message: Any) -> None:
            event = message.get("aux") if isinstance(message, dict) else None
            if event is not None:
                steps.hear(event)

        client = "" if order.attrs.get("context") else session.client
        kept = await stack.enter_async_context(builder.kept_files(client, _CONTEXT))
        options, source = await _source(session, order.attrs, asked, board, kept)
        try:
            image = await builder.build(options, replace(source, equip=equip), send)
            await asyncio.gather(*sending)
        except BarqueError as error:
            raise steps.located(error, options.dockerfile) from error
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
    found = {"containerimage.digest": image, "containerimage.config.digest": image}
    if options.tags:
        found["image.name"] = ",".join(str(tag.with_default_tag()) for tag in options.tags)
    return found


async def check(builder: Builder, session: Session, order: Order, board: Board) -> dict[str, bytes]:
    """``docker build --check``: the metadata of a result that has no files (moby/buildkit
    ``frontend/subrequests/lint``).
    """
    asked = request.options(order.attrs, (), order.imports, (), ())
    options, source = await _source(session, order.attrs, asked, board)
    dockerfile, findings = await builder.check(options, source)
    warnings = [{"ruleName": finding.rule, "url": finding.address, "detail": finding.message, "location": {"ranges": [
        {"start": {"line": finding.line}, "end": {"line": finding.last_line}}]}} for finding in findings]
    document = {"warnings": warnings or None, "sources": [
        {"filename": options.dockerfile, "language": "Dockerfile",
         "data": base64.b64encode(dockerfile.encode()).decode()}] if warnings else None}
    return {"result.txt": report(findings, dockerfile, options.dockerfile).encode(),
            "result.json": go_json.encode(document), "result.statuscode": b"1" if findings else b"0",
            "version": b"1.0.0"}


async def _source(session: Session, attrs: Mapping[str, str], options: BuildOptions,
                  board: Board, kept: KeptFiles | None = None) -> tuple[BuildOptions, Request]:
    """Where the files come from, and the Dockerfile."""
    context = attrs.get("context", "")
    filename = attrs.get("filename", "") or "Dockerfile"
    options = replace(options, dockerfile=filename)
    text, own_ignore = "", None
    if not context or attrs.get("dockerfilekey"):
        with board.step(f"[internal] load build definition from {filename}"):
            text, own_ignore = await _dockerfile(session, attrs.get("dockerfilekey", "dockerfile"), filename)
    if not context:
        with board.step("[internal] load .dockerignore"):
            ignore = own_ignore if own_ignore is not None else await _ignore_file(session)
        patterns = read_ignore_file(ignore.decode("utf-8", "surrogateescape"))
        files = filesync.archive(session, _CONTEXT, {"exclude-patterns": patterns}, kept)
        return options, Request(_shown(files, board), dockerfile=text, kept=kept)
    if context.startswith(_UPLOAD):
        return options, Request(_shown(session.upload(context.removeprefix(_UPLOAD)), board), dockerfile=text)
    return replace(options, remote=context), Request(_nothing(), dockerfile=text)


async def _equipped(session: Session, options: BuildOptions, wanted: Needs, stack: AsyncExitStack) -> BuildOptions:
    """With secrets, credentials and agents, which are good until ``stack`` ends."""
    secrets = {name: await session.secret(name) for name in sorted(wanted.secrets)}
    credentials: dict[str, Credentials] = {}
    for domain in sorted(wanted.registries):
        if (found := await session.credentials(domain)) is not None:
            credentials[domain] = found
    sockets: dict[str, str] = {}
    directory = stack.enter_context(TemporaryDirectory(prefix="barque-agents-")) if wanted.agents else ""
    for number, name in enumerate(sorted(wanted.agents)):
        if await session.has_agent(name):
            sockets[name] = os.path.join(directory, str(number))
            await stack.enter_async_context(agents.forward(session, name, sockets[name]))
    return replace(options, credentials=credentials, ssh=sockets,
                   secrets={name: value for name, value in secrets.items() if value is not None})


async def _dockerfile(session: Session, directory: str, name: str) -> tuple[str, bytes | None]:
    """The Dockerfile, and the ``.dockerignore`` of its own."""
    own = f"{name}.dockerignore"
    other = os.path.join(os.path.dirname(name), "dockerfile") if os.path.basename(name) == "Dockerfile" else ""
    found = await _texts(session, directory, [item for item in (name, own, other) if item])
    data = found.get(name)
    if data is None:
        data = found.get(other)
    if data is None:
        raise CannotLocateDockerfile(name=name)
    if not data:
        raise EmptyDockerfile(name=name)
    return data.decode("utf-8", "replace"), found.get(own)


async def _ignore_file(session: Session) -> bytes:
    return (await _texts(session, _CONTEXT, [IGNORE_FILE])).get(IGNORE_FILE, b"")


async def _texts(session: Session, directory: str, names: list[str]) -> dict[str, bytes]:
    """Those of the client's files that are there, links followed within the directory."""
    data = bytearray()
    async for piece in filesync.archive(session, directory, {"followpaths": names}):
        data += piece
        if len(data) > 2 * MAX_DOCKERFILE:
            raise InvalidArgument("the Dockerfile is too long")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {member.name: member for member in tar}
        found = {name: _content(tar, members, name) for name in names}
    return {name: text for name, text in found.items() if text is not None}


def _content(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str) -> bytes | None:
    for _ in range(_LINKS):
        member = members.get(os.path.normpath(name))
        if member is None or not member.issym():
            break
        name = os.path.join(os.path.dirname(member.name), member.linkname).lstrip("/")
    file = tar.extractfile(member) if member is not None and member.isfile() else None
    return file.read() if file is not None else None


async def _shown(pieces: AsyncIterator[bytes], board: Board) -> AsyncIterator[bytes]:
    size = 0
    with board.step("[internal] load build context") as line:
        line.status("transferring context:")
        async for piece in pieces:
            size += len(piece)
            yield piece
        line.status("transferring context:", size, done=True)


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


async def _send(builder: Builder, session: Session, board: Board, token: str, exporter: Exporter, number: int) -> None:
    with board.step(f"exporting to client {'directory' if exporter.type == 'local' else 'tarball'}") as line:
        pieces = builder.output(token)
        size = await (filesend.files if exporter.type == "local" else filesend.tarball)(session, number, pieces)
        line.status("copying files", size, done=True)
