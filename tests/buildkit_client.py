"""A client of BuildKit in this process, as buildx is one: it serves a session, and calls the engine.

What it serves is written here once more, from the receiver's point of view nobody can tell it from Go's.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from socket import socketpair
from typing import Any
from urllib.parse import unquote_plus

from grpclib.client import Channel
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from barque.api.buildkit import messages as m
from barque.api.buildkit.connection import Codec, Details, Dialled, Methods
from barque.api.buildkit.filesync import DATA, ERR, FIN, REQ, STAT
from barque.api.buildkit.sessions import Session
from barque.oci.patterns import Patterns

CONTROL, BRIDGE = "/moby.buildkit.v1.Control/", "/moby.buildkit.v1.frontend.LLBBridge/"
_CHUNK = 32 << 10
_DIRECTORY, _SYMLINK, _PIPE, _SETUID = 1 << 31, 1 << 27, 1 << 25, 1 << 23


@dataclass
class Client:
    """What a client has. ``name``: what it calls itself from build to build. ``received``: by the number of the
    exporter, an archive or files by path."""

    directories: dict[str, Path] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    accounts: dict[str, tuple[str, str]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    received: dict[int, Any] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    name: str = ""

    def methods(self) -> dict[str, Handler]:
        def unary(call: Callable[[Any], Any], request: type[Any], reply: type[Any]) -> Handler:
            async def answer(stream: Any) -> None:
                await stream.send_message(call(await stream.recv_message()))
            return Handler(answer, Cardinality.UNARY_UNARY, request, reply)

        def both(call: Callable[[Any], Awaitable[None]], kind: type[Any]) -> Handler:
            return Handler(call, Cardinality.STREAM_STREAM, kind, kind)

        return {
            "/moby.filesync.v1.FileSync/DiffCopy": both(self._send_files, m.Packet),
            "/moby.filesync.v1.FileSend/DiffCopy": both(self._receive_archive, m.BytesMessage),
            "/moby.upload.v1.Upload/Pull": both(self._upload, m.BytesMessage),
            "/moby.sshforward.v1.SSH/ForwardAgent": both(self._echo, m.BytesMessage),
            "/moby.sshforward.v1.SSH/CheckAgent": unary(self._check_agent, m.CheckAgentRequest, m.Empty),
            "/moby.buildkit.secrets.v1.Secrets/GetSecret": unary(self._secret, m.GetSecretRequest,
                                                                m.GetSecretResponse),
            "/moby.filesync.v1.Auth/Credentials": unary(self._account, m.CredentialsRequest, m.CredentialsResponse)}

    def _secret(self, request: m.GetSecretRequest) -> m.GetSecretResponse:
        self.asked.append(("secret", request.id))
        if request.id not in self.secrets:
            raise GRPCError(Status.NOT_FOUND, f"secret {request.id} not found")
        return m.GetSecretResponse(self.secrets[request.id])

    def _account(self, request: m.CredentialsRequest) -> m.CredentialsResponse:
        self.asked.append(("account", request.host))
        return m.CredentialsResponse(*self.accounts.get(request.host, ("", "")))

    def _check_agent(self, request: m.CheckAgentRequest) -> m.Empty:
        if request.id != "default":
            raise GRPCError(Status.UNKNOWN, f"unset ssh forward key {request.id}")
        return m.Empty()

    async def _echo(self, stream: Any) -> None:
        async for message in stream:
            await stream.send_message(m.BytesMessage(message.data.upper()))

    async def _upload(self, stream: Any) -> None:
        await stream.send_message(m.BytesMessage(self.uploads[stream.metadata["urlpath"].lstrip("/")]))

    async def _receive_archive(self, stream: Any) -> None:
        number = int(stream.metadata["buildkit-attachable-exporter-id"])
        self.received[number] = b"".join([message.data async for message in stream])

    async def _send_files(self, stream: Any) -> None:
        root = self.directories[stream.metadata["dir-name"]]
        excluded = Patterns(_values(stream, "exclude-patterns"))
        followed = _values(stream, "followpaths")
        paths = [path for path in _walk(root) if not excluded.matches(path)
                 and (not followed or any((name + "/").startswith(path + "/") for name in followed))]
        links: dict[int, str] = {}
        for path in paths:
            await stream.send_message(m.Packet(STAT, _stat(root, path, links)))
        await stream.send_message(m.Packet(STAT))
        async for packet in stream:
            if packet.type == FIN:
                await stream.send_message(m.Packet(FIN))
                return
            assert packet.type == REQ
            self.asked.append((stream.metadata["dir-name"], paths[packet.id]))
            data = (root / paths[packet.id]).read_bytes()
            for at in range(0, len(data), _CHUNK):
                await stream.send_message(m.Packet(DATA, id=packet.id, data=data[at:at + _CHUNK]))
            await stream.send_message(m.Packet(DATA, id=packet.id))


class DirectoryClient(Client):
    """One that takes results as files."""

    def methods(self) -> dict[str, Handler]:
        return {**super().methods(), "/moby.filesync.v1.FileSend/DiffCopy": Handler(
            self._receive_files, Cardinality.STREAM_STREAM, m.Packet, m.Packet)}

    async def _receive_files(self, stream: Any) -> None:
        stats: list[m.Stat] = []
        async for packet in stream:
            assert packet.type == STAT, packet
            if packet.stat is None:
                break
            stats.append(packet.stat)
        found: dict[str, Any] = {}
        # Backwards: a receiver asks in an order of its own.
        for number, entry in reversed([*enumerate(stats)]):
            found[entry.path] = (entry.mode, entry.linkname, b"")
            if entry.mode & (_DIRECTORY | _SYMLINK | _PIPE) or entry.linkname:
                continue
            await stream.send_message(m.Packet(REQ, id=number))
            data = b""
            while (packet := await stream.recv_message()).data:
                assert packet.id == number
                data += packet.data
            found[entry.path] = (entry.mode, "", data)
        await stream.send_message(m.Packet(FIN))
        assert (await stream.recv_message()).type == FIN
        assert [entry.path.split("/") for entry in stats] == sorted(entry.path.split("/") for entry in stats)
        self.received[int(stream.metadata["buildkit-attachable-exporter-id"])] = found


class FaultyClient(Client):
    """One whose transfer of files goes wrong in the way of ``fault``."""

    fault = "error"

    async def _send_files(self, stream: Any) -> None:
        size = -1 if self.fault == "negative" else 4
        await stream.send_message(m.Packet(STAT, m.Stat(path="f", mode=0o644, size=size)))
        await stream.recv_message()
        if self.fault == "error":
            await stream.send_message(m.Packet(ERR, data=b"open f: permission denied"))
            await stream.recv_message()
        elif self.fault == "longer":
            await stream.send_message(m.Packet(DATA, data=b"12345"))
            await stream.recv_message()
        elif self.fault == "shorter":
            await stream.send_message(m.Packet(DATA, data=b"123"))
            await stream.send_message(m.Packet(DATA))
            await stream.recv_message()
        elif self.fault == "unasked":
            await stream.send_message(m.Packet(DATA, id=7, data=b"123"))
            await stream.recv_message()
        # "end": the stream just ends


def _values(stream: Any, name: str) -> list[str]:
    values: list[str] = stream.metadata.getall(name, [])
    return [unquote_plus(value) for value in values] if f"{name}-encoded" in stream.metadata else values


def _walk(root: Path) -> list[str]:
    found = [str(path.relative_to(root)) for path in root.rglob("*")]
    return sorted(found, key=lambda path: path.split("/"))


def _stat(root: Path, path: str, links: dict[int, str]) -> m.Stat:
    info = os.lstat(root / path)
    kind = (_DIRECTORY if stat.S_ISDIR(info.st_mode) else _SYMLINK if stat.S_ISLNK(info.st_mode)
            else _PIPE if stat.S_ISFIFO(info.st_mode) else 0)
    link = os.readlink(root / path) if kind == _SYMLINK else ""
    if stat.S_ISREG(info.st_mode) and info.st_nlink > 1:
        first = links.setdefault(info.st_ino, path)
        link = first if first != path else ""
    mode = kind | info.st_mode & 0o777 | (_SETUID if info.st_mode & stat.S_ISUID else 0)
    return m.Stat(path=path, mode=mode, size=info.st_size if not kind else 0, mod_time=info.st_mtime_ns, linkname=link)


async def _upgraded(socket: str, path: str, headers: list[tuple[str, str]], protocol: Any) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_unix_connection(socket)
    lines = [f"POST {path} HTTP/1.1", "Host: d", "Connection: Upgrade", "Upgrade: h2c",
             *(f"{name}: {value}" for name, value in headers)]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head, head
    # Nothing is awaited from here on: what has come so far is in the buffer.
    writer.transport.set_protocol(protocol)
    protocol.connection_made(writer.transport)
    if early := bytes(reader._buffer):  # type: ignore[attr-defined]
        protocol.data_received(early)
    return writer


def _server(client: Client) -> Any:
    """The protocol of one connection on which the client answers."""
    return Server([Methods(client.methods())], codec=Codec(), status_details_codec=Details())._protocol_factory()


@asynccontextmanager
async def connected(socket: str, client: Client, session: str) -> AsyncIterator[Channel]:
    """A channel to the engine, with the session ``session`` beside it."""
    headers = [("X-Docker-Expose-Session-Uuid", session), ("X-Docker-Expose-Session-Sharedkey", client.name),
               *(("X-Docker-Expose-Session-Grpc-Method", name) for name in client.methods())]
    serving = await _upgraded(socket, "/session", headers, _server(client))
    channel = Dialled()
    calling = await _upgraded(socket, "/grpc", [], channel.protocol)
    try:
        yield channel
    finally:
        channel.close()
        calling.close()
        serving.close()


@asynccontextmanager
async def session_of(client: Client) -> AsyncIterator[Session]:
    """The engine's view of ``client``, without an engine."""
    ours, theirs = socketpair()
    loop = asyncio.get_running_loop()
    serving, _ = await loop.create_connection(lambda: _server(client), sock=theirs)
    channel = Dialled()
    calling, _ = await loop.create_connection(lambda: channel.protocol, sock=ours)
    try:
        yield Session(channel, frozenset(name.lower() for name in client.methods()))
    finally:
        channel.close()
        calling.close()
        serving.close()


async def call(channel: Channel, method: str, request: Any, reply: type[Any], build: str = "") -> Any:
    metadata = [("buildkit-controlapi-buildid", build)] if build else []
    async with channel.request(method, Cardinality.UNARY_UNARY, type(request), reply, metadata=metadata) as stream:
        await stream.send_message(request, end=True)
        return await stream.recv_message()


@dataclass
class Built:
    """``vertexes``: the last word on each, in the order of their beginning."""

    response: dict[str, str] = field(default_factory=dict)
    error: GRPCError | None = None
    vertexes: list[m.Vertex] = field(default_factory=list)
    logs: str = ""

    def names(self) -> list[str]:
        return [vertex.name for vertex in self.vertexes]


async def build(socket: str, client: Client, attrs: dict[str, str], exporters: list[m.Exporter],
                cache: m.CacheOptions | None = None) -> Built:
    """Build as buildx does: three calls at once, under one reference."""
    ref = token_hex(8)
    built = Built()
    async with connected(socket, client, f"session-{ref}") as channel:
        async def watch() -> None:
            async with channel.request(CONTROL + "Status", Cardinality.UNARY_STREAM, m.StatusRequest,
                                       m.StatusResponse) as stream:
                await stream.send_message(m.StatusRequest(ref), end=True)
                seen: dict[str, m.Vertex] = {}
                async for status in stream:
                    seen |= {vertex.digest: vertex for vertex in status.vertexes}
                    built.logs += "".join(log.msg.decode() for log in status.logs)
                built.vertexes = [*seen.values()]

        async def frontend() -> None:
            await call(channel, BRIDGE + "Ping", m.Empty(), m.PongResponse, ref)
            solved = await call(channel, BRIDGE + "Solve", m.BridgeSolveRequest(
                frontend="dockerfile.v0", frontend_opt=attrs), m.BridgeSolveResponse, ref)
            await call(channel, BRIDGE + "Return", m.ReturnRequest(solved.result), m.Empty, ref)

        others = [asyncio.create_task(watch()), asyncio.create_task(frontend())]
        try:
            answer = await call(channel, CONTROL + "Solve", m.SolveRequest(
                ref=ref, session=f"session-{ref}", exporters=exporters, cache=cache), m.SolveResponse)
            built.response = answer.exporter_response
        except GRPCError as error:
            built.error = error
        except asyncio.CancelledError:
            channel.close()
            await asyncio.gather(*others, return_exceptions=True)
            raise
        await asyncio.gather(*others)
    return built
