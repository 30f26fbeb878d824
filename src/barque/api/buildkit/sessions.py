"""Sessions: clients that serve their files, secrets, agents and credentials to the builds that they ask for.

``POST /session`` with ``X-Docker-Expose-Session-Uuid`` and, for each method that the client serves,
``X-Docker-Expose-Session-Grpc-Method``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote_plus

from aiohttp import web
from grpclib.client import Channel
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from barque.api.buildkit.arrivals import Arrivals
from barque.api.buildkit.connection import dial
from barque.api.buildkit.messages import (
    BytesMessage,
    CheckAgentRequest,
    CredentialsRequest,
    CredentialsResponse,
    Empty,
    GetSecretRequest,
    GetSecretResponse,
)
from barque.errors import BarqueError, InvalidArgument
from barque.image.client.auth import Credentials

_ID, _METHOD = "X-Docker-Expose-Session-Uuid", "X-Docker-Expose-Session-Grpc-Method"
_CLIENT = "X-Docker-Expose-Session-Sharedkey"
#: What BuildKit's clients call Docker Hub.
_HUB_HOST = "registry-1.docker.io"

Metadata = Sequence[tuple[str, str]]


class SessionFailed(BarqueError):
    status = 500
    text = "the client's session: {reason}"


class NoSession(InvalidArgument):
    text = "no active session for {id}"


class Session:
    """What one client serves. All calls raise :class:`SessionFailed`."""

    def __init__(self, channel: Channel, methods: frozenset[str], client: str = "") -> None:
        """``client``: what it calls itself and its directory, the same from build to build; may be empty."""
        self.client = client
        self._channel = channel
        self._methods = methods

    def offers(self, method: str) -> bool:
        return method.lower() in self._methods

    @asynccontextmanager
    async def call(self, method: str, sent: type[Any], received: type[Any], metadata: Metadata = (),
                   cardinality: Cardinality = Cardinality.STREAM_STREAM) -> AsyncIterator[Any]:
        """grpclib's stream of one call."""
        if not self.offers(method):
            raise SessionFailed(reason=f"it does not offer {method}")
        try:
            async with self._channel.request(method, cardinality, sent, received,
                                             metadata=[*metadata]) as stream:
                await stream.send_request()
                yield stream
        except GRPCError as error:
            raise SessionFailed(reason=error.message or error.status.name) from None
        except (StreamTerminatedError, ConnectionError) as error:
            raise SessionFailed(reason=str(error) or "it has ended") from None

    async def _ask(self, method: str, request: Any, reply: type[Any]) -> Any:
        async with self.call(method, type(request), reply, cardinality=Cardinality.UNARY_UNARY) as stream:
            await stream.send_message(request, end=True)
            return await stream.recv_message()

    async def secret(self, name: str) -> bytes | None:
        """None where the client has none of that name."""
        try:
            answer = await self._ask("/moby.buildkit.secrets.v1.Secrets/GetSecret", GetSecretRequest(name),
                                     GetSecretResponse)
        except SessionFailed as error:
            if _not_there(error):
                return None
            raise
        return bytes(answer.data)

    async def has_agent(self, name: str) -> bool:
        try:
            await self._ask("/moby.sshforward.v1.SSH/CheckAgent", CheckAgentRequest(name), Empty)
        except SessionFailed:
            return False
        return True

    async def credentials(self, domain: str) -> Credentials | None:
        if not self.offers("/moby.filesync.v1.Auth/Credentials"):
            return None
        host = _HUB_HOST if domain == "docker.io" else domain
        answer = await self._ask("/moby.filesync.v1.Auth/Credentials", CredentialsRequest(host), CredentialsResponse)
        if not answer.secret:
            return None
        if not answer.username:
            return Credentials(identity_token=answer.secret, serveraddress=domain)
        return Credentials(username=answer.username, password=answer.secret, serveraddress=domain)

    async def upload(self, path: str) -> AsyncIterator[bytes]:
        """An archive that the client has announced as ``http://buildkit-session/<path>``."""
        metadata = [("urlpath", f"/{path}"), ("urlhost", "buildkit-session")]
        async with self.call("/moby.upload.v1.Upload/Pull", BytesMessage, BytesMessage, metadata) as stream:
            await stream.end()
            async for message in stream:
                yield message.data


def _not_there(error: SessionFailed) -> bool:
    return isinstance(error.__context__, GRPCError) and error.__context__.status is Status.NOT_FOUND


class Sessions:
    def __init__(self) -> None:
        #: A build may be asked for before its session has arrived.
        self._sessions = Arrivals[Session]()

    async def accept(self, request: web.Request) -> web.StreamResponse:
        """``POST /session``: lasts as long as the client wants."""
        name = request.headers.get(_ID, "")
        if not name:
            raise InvalidArgument(f"a session needs {_ID}")
        methods = frozenset(method.lower() for method in request.headers.getall(_METHOD, []))
        channel, upgraded = dial(request)
        try:
            self._sessions.put(name, Session(channel, methods, request.headers.get(_CLIENT, "")))
            await upgraded.closed.wait()
        finally:
            self._sessions.remove(name)
            channel.close()
        return upgraded

    async def get(self, name: str) -> Session:
        """The session, awaited if it is not there yet. Raises :class:`NoSession`."""
        name = name.rpartition(":")[2]
        try:
            return await self._sessions.get(name)
        except TimeoutError:
            raise NoSession(id=name) from None


def escaped(metadata: Mapping[str, Sequence[str]]) -> Metadata:
    """Lists as repeated entries; names that are not ASCII percent-encoded, and said to be."""
    found: list[tuple[str, str]] = []
    for key, values in metadata.items():
        if all(value.isascii() for value in values):
            found += [(key, value) for value in values]
        else:
            found += [(key, quote_plus(value)) for value in values]
            found.append((f"{key}-encoded", "1"))
    return found
