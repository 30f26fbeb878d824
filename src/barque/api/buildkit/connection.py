"""gRPC over connections that came in as HTTP/1.1 and were upgraded to HTTP/2 (``Upgrade: h2c``), both ways.

On ``/grpc`` the engine serves; on ``/session`` the client does, and the engine calls it. What grpclib does not promise
is in this file, against the version that pyproject.toml pins.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from grpclib.client import Channel
from grpclib.const import Cardinality, Handler, Status
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream

from barque.api.buildkit.fields import decode, encode
from barque.api.buildkit.messages import Detail, Empty, RpcStatus
from barque.api.buildkit.steps import Located
from barque.api.hijack import Upgraded, keep
from barque.errors import BarqueError, InvalidArgument
from barque.oci import go_json
from barque.protobuf import InvalidMessage

PROTOCOL = "h2c"

AnyStream = Stream[Any, Any]


class Codec(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return encode(message)

    def decode(self, data: bytes, message_type: Any) -> Any:
        return decode(message_type, data)


class Details(StatusDetailsCodecBase):
    """``grpc-status-details-bin``: here a failure may carry its place in a Dockerfile, in which clients show it."""

    def encode(self, status: Status, message: str | None, details: Any) -> bytes:
        return encode(RpcStatus(status.value, message or "", [details] if details else []))

    def decode(self, status: Status, message: str | None, data: bytes) -> Any:
        return None


class Methods:
    """Meets grpclib's IServable."""

    def __init__(self, mapping: dict[str, Handler]) -> None:
        self._mapping = mapping

    def __mapping__(self) -> dict[str, Handler]:
        return self._mapping


def unary(call: Callable[[AnyStream, Any], Awaitable[Any]], request: type[Any], reply: type[Any]) -> Handler:
    """A method with one message each way: ``call`` makes the answer of the request."""
    async def answer(stream: AnyStream) -> None:
        message = await stream.recv_message()
        if message is not None:
            await stream.send_message(await call(stream, message))

    return Handler(_guarded(answer), Cardinality.UNARY_UNARY, request, reply)


def streaming(call: Callable[[AnyStream, Any], Awaitable[None]], request: type[Any], reply: type[Any]) -> Handler:
    """A method that answers with a stream: ``call`` sends it."""
    async def answer(stream: AnyStream) -> None:
        message = await stream.recv_message()
        if message is not None:
            await call(stream, message)

    return Handler(_guarded(answer), Cardinality.UNARY_STREAM, request, reply)


def _guarded(answer: Callable[[AnyStream], Awaitable[None]]) -> Callable[[AnyStream], Awaitable[None]]:
    """Failures in gRPC's words; what is no answer is a bug, and grpclib logs it."""
    async def guarded(stream: AnyStream) -> None:
        try:
            await answer(stream)
        except BarqueError as error:
            raise GRPCError(_STATUS.get(error.status, Status.UNKNOWN), error.message, _details(error)) from None
        except InvalidMessage as error:
            raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None

    return guarded


_STATUS = {404: Status.NOT_FOUND, 501: Status.UNIMPLEMENTED}


def _details(error: BarqueError) -> Detail | None:
    """As BuildKit's clients know it (moby/buildkit ``solver/errdefs``, in JSON)."""
    if not isinstance(error, Located):
        return None
    place = {"line": error.line}
    return Detail("github.com/moby/buildkit/errdefs.Source+json", go_json.encode({
        "info": {"filename": error.filename, "data": base64.b64encode(error.dockerfile).decode(),
                 "language": "Dockerfile"},
        "ranges": [{"start": place, "end": place}]}))


def refused(method: str) -> Handler:
    """A method of BuildKit's that is not here."""
    async def refuse(_: AnyStream) -> None:
        raise GRPCError(Status.UNIMPLEMENTED, f"{method.rpartition('/')[2]} is not supported by this engine")

    return Handler(refuse, Cardinality.UNARY_STREAM, Empty, Empty)


async def serve(request: web.Request, methods: dict[str, Handler]) -> web.StreamResponse:
    """Answer calls on the request's connection until the client closes it; calls that run are cancelled then."""
    _check(request)
    protocol = Server([Methods(methods)], codec=Codec(), status_details_codec=Details())._protocol_factory()
    upgraded = Upgraded(request, protocol, PROTOCOL)
    keep(request, "response", upgraded)
    await upgraded.closed.wait()
    return upgraded


class Dialled(Channel):
    """A channel over a connection that is there already, and only over that one."""

    def __init__(self) -> None:
        super().__init__(codec=Codec())
        self.protocol: H2Protocol = self._protocol_factory()

    async def _create_connection(self) -> H2Protocol:
        return self.protocol


def dial(request: web.Request) -> tuple[Channel, Upgraded]:
    """Call the client on the request's connection. The caller closes the channel."""
    _check(request)
    channel = Dialled()
    upgraded = Upgraded(request, channel.protocol, PROTOCOL)
    keep(request, "response", upgraded)
    return channel, upgraded


def _check(request: web.Request) -> None:
    if request.headers.get("Upgrade", "").lower() != PROTOCOL:
        raise InvalidArgument(f"the connection is to be upgraded to {PROTOCOL}")
