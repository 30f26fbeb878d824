"""The Engine API client: version negotiation, JSON requests, streams and hijacked connections. Blocking."""

from __future__ import annotations

import select

from barque import fastjson
from barque.client.http import query_string

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from barque.client.http import Connection, Response
    from barque.client.transport import Endpoint

#: The newest API version that this client speaks; a server may pull it down.
API_VERSION = "1.50"
#: What a server without an Api-Version header is taken for, as docker does.
OLDEST_VERSION = "1.24"


class ApiError(Exception):
    """The engine answered with an error; the text is what docker prints for it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"Error response from daemon: {message}")
        self.status = status
        self.message = message


class Unreachable(Exception):
    """Nothing answers at the endpoint. ``cause`` is the OSError."""

    def __init__(self, url: str, cause: OSError) -> None:
        self.cause = cause
        self.url = url
        if isinstance(cause, PermissionError):
            text = (f"permission denied while trying to connect to the Barque daemon socket at {url}: "
                    "connect: permission denied (it takes root, or membership in the group that owns the socket)")
        elif isinstance(cause, (ConnectionRefusedError, FileNotFoundError)):
            text = f"Cannot connect to the Barque daemon at {url}. Is barqued running?"
        else:
            text = f"error during connect: {url}: {cause.strerror or cause}"
        super().__init__(text)


def version_tuple(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


class Engine:
    """One engine at ``endpoint``. ``pinned`` fixes the API version and switches the negotiation off,
    ``trace`` is told about every exchange."""

    def __init__(self, endpoint: Endpoint, headers: dict[str, str], pinned: str = "",
                 trace: Callable[[str], None] | None = None) -> None:
        self.endpoint = endpoint
        self.version = pinned or API_VERSION
        self.server_headers: dict[str, str] = {}
        self._negotiated = bool(pinned)
        self._headers = headers
        self._idle: Connection | None = None
        self._trace = trace

    # -- connections

    def _connect(self) -> Connection:
        idle, self._idle = self._idle, None
        if idle is not None:
            poll = select.poll()
            poll.register(idle.sock.fileno(), select.POLLIN)
            if not idle.pending and not poll.poll(0):
                return idle
            idle.close()  # the server hung up meanwhile
        try:
            return self.endpoint.connect()
        except OSError as error:
            raise Unreachable(self.endpoint.url, error) from None

    def adopt(self, connection: Connection) -> None:
        """Give a fresh connection to the next request."""
        self._idle = connection

    def _keep(self, response: Response) -> None:
        if response.reusable and self._idle is None:
            self._idle = response.connection
        else:
            response.close()

    def ping(self) -> dict[str, str]:
        """Ask for the server's headers and settle on the API version, once."""
        if not self.server_headers:
            response = self._exchange("HEAD", "/_ping", {}, None)
            self.server_headers = response.headers
            self._keep(response)
            if not self._negotiated:
                offered = self.server_headers.get("api-version", OLDEST_VERSION)
                if version_tuple(offered) < version_tuple(self.version):
                    self.version = offered
                self._negotiated = True
        return self.server_headers

    def supports(self, version: str) -> bool:
        """Whether the version in use is ``version`` or newer."""
        self._negotiate()
        return version_tuple(self.version) >= version_tuple(version)

    def _negotiate(self) -> None:
        if not self._negotiated:
            self.ping()

    def _exchange(self, method: str, target: str, headers: dict[str, str],
                  body: bytes | Iterable[bytes] | None) -> Response:
        connection = self._connect()
        fields = {"Host": self.endpoint.authority, "User-Agent": "Barque-Client/0.1.0 (linux)"}
        fields.update(self._headers)
        fields.update(headers)
        try:
            try:
                connection.send(method, target, fields, body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # a server that refuses early has said why, which is still to be read
            response = connection.response(method)
        except OSError as error:
            connection.close()
            raise Unreachable(self.endpoint.url, error) from None
        except BaseException:
            connection.close()
            raise
        if self._trace is not None:
            self._trace(f"{method} {target} -> {response.status}")
        return response

    # -- requests

    def stream(self, method: str, path: str, query: dict[str, Any] | None = None, body: object = None,
               headers: dict[str, str] | None = None) -> Response:
        """Send a request and return the response with its body unread; raises :class:`ApiError` for a refusal.

        ``body``: bytes or an iterable of bytes are sent as they are, anything else as JSON.
        """
        self._negotiate()
        fields = dict(headers or {})
        data: bytes | Iterable[bytes] | None
        if body is None or isinstance(body, bytes) or hasattr(body, "__next__"):
            data = body  # type: ignore[assignment]
        else:
            data = fastjson.dumps(body).encode("utf-8", "surrogateescape")
            fields.setdefault("Content-Type", "application/json")
        target = f"/v{self.version}{path}{query_string(query or {})}"
        response = self._exchange(method, target, fields, data)
        if response.status >= 400:
            raise self._refusal(response, method, target)
        return response

    def _refusal(self, response: Response, method: str, target: str) -> ApiError:
        body = response.read()
        self._keep(response)
        message = body.decode("utf-8", "replace").strip()
        try:
            document = fastjson.loads(body)
            if isinstance(document, dict) and document.get("message"):
                message = str(document["message"]).strip()
        except fastjson.BadJSON:
            pass
        if not message:
            message = f"request returned {response.status} for API route and version {method} {target}"
        return ApiError(response.status, message)

    def request(self, method: str, path: str, query: dict[str, Any] | None = None, body: object = None,
                headers: dict[str, str] | None = None) -> Any:
        """Send a request and return its JSON answer, None where it has no body."""
        response = self.stream(method, path, query, body, headers)
        try:
            value = response.json()
        except OSError as error:
            response.close()
            raise Unreachable(self.endpoint.url, error) from None
        self._keep(response)
        return value

    def get(self, path: str, query: dict[str, Any] | None = None) -> Any:
        return self.request("GET", path, query)

    def post(self, path: str, query: dict[str, Any] | None = None, body: object = None) -> Any:
        return self.request("POST", path, query, body)

    def delete(self, path: str, query: dict[str, Any] | None = None) -> Any:
        return self.request("DELETE", path, query)

    def hijack(self, path: str, query: dict[str, Any] | None = None, body: object = None) -> Response:
        """POST and take the connection over as a raw byte stream in both directions (``.connection``)."""
        fields = {"Connection": "Upgrade", "Upgrade": "tcp"}
        if body is None:
            fields["Content-Type"] = "text/plain"
        response = self.stream("POST", path, query, body, fields)
        response.upgraded = True
        return response

    def close(self) -> None:
        if self._idle is not None:
            self._idle.close()
            self._idle = None
