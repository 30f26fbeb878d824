"""What registries and the way to them can get wrong, in the words that docker's clients know."""

from __future__ import annotations

import errno
import os
import ssl
from typing import Any

import aiohttp
import msgspec

from barque.errors import DataLoss, Internal, NotFound, PermissionDenied, Unauthenticated
from barque.oci import go_json
from barque.oci.reference import Reference


class RegistryUnreachable(Internal):
    """No HTTP answer. dockerd answers 500 with the text of Go's http client, which scripts match."""


class RegistryRefused(Internal):
    """An HTTP answer that is an error. ``code`` is the specification's, or empty; ``status`` stays the API's status."""

    def __init__(self, message: str, code: str, http_status: int) -> None:
        super().__init__(message)
        self.code = code
        self.http_status = http_status


class PullDenied(NotFound):
    text = "pull access denied for {name}, repository does not exist or may require 'docker login': {cause}"


class ManifestNotFound(NotFound):
    text = "manifest for {ref} not found: {cause}"


class RepositoryNotFound(NotFound):
    text = "repository {name} not found: {cause}"


class NotAuthorized(Unauthenticated):
    """The registry wants other credentials."""


class UnsafeRealm(PermissionDenied):
    text = "refusing to send credentials of {registry} to the token server {realm}: not HTTPS"


class BrokenTransfer(DataLoss):
    text = "unexpected EOF"


class LayerVerificationFailed(DataLoss):
    text = "filesystem layer verification failed for digest {digest}"


class ManifestVerificationFailed(DataLoss):
    text = "manifest verification failed for digest {digest}"


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""
    detail: Any = None


class _Errors(msgspec.Struct):
    errors: list[_Error] = []
    details: str = ""


def from_answer(method: str, url: str, status: int, body: bytes) -> RegistryRefused:
    """The error that a 4xx or 5xx answer with ``body`` stands for."""
    try:
        errors = go_json.decode(body, _Errors).errors
    except go_json.InvalidJSON:
        errors = []
    if not errors:
        if status == 401:
            return RegistryRefused("unauthorized: authentication required", "UNAUTHORIZED", status)
        if status == 429:
            return RegistryRefused("toomanyrequests: too many requests", "TOOMANYREQUESTS", status)
        reason = f"{status} {_REASONS.get(status, '')}".strip()
        return RegistryRefused(f"unexpected status from {method} request to {url}: {reason}", "", status)
    first = errors[0]
    # Go prints the code in lower case with spaces, then the message.
    text = f"{first.code.replace('_', ' ').lower()}: {first.message or 'unknown error'}"
    return RegistryRefused(text, first.code, status)


_REASONS = {403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 416: "Requested Range Not Satisfiable",
            500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}


def for_pull(error: RegistryRefused, ref: Reference) -> Exception:
    """How dockerd tells of ``error`` while it pulls ``ref``."""
    if error.code == "DENIED":
        return PullDenied(name=ref.familiar_name, cause=error.message)
    if error.code in ("MANIFEST_UNKNOWN", "NAME_UNKNOWN") or (error.http_status == 404 and not error.code):
        if error.code == "NAME_UNKNOWN":
            return RepositoryNotFound(name=ref.familiar_name, cause=error.message)
        return ManifestNotFound(ref=ref.familiar, cause="manifest unknown: manifest unknown")
    if error.code == "UNAUTHORIZED":
        return NotAuthorized(error.message)
    return error


def unreachable(method: str, url: str, error: BaseException) -> RegistryUnreachable:
    """Tell of a failed connection as Go's ``url.Error`` does."""
    return RegistryUnreachable(f'{method.capitalize()} "{url}": {go_text(error)}')


def go_text(error: BaseException) -> str:
    """A failed connection in the words of Go's net and net/http."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {error.host}: no such host"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: x509: {_x509(error)}"
    if isinstance(error, aiohttp.ClientConnectorSSLError | ssl.SSLError):
        if "WRONG_VERSION_NUMBER" in str(error) or "RECORD_LAYER" in str(error):
            return "http: server gave HTTP response to HTTPS client"
        return f"remote error: tls: {error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        reason = os.strerror(number).lower() if number else str(error.os_error)
        return f"dial tcp {error.host}:{error.port}: connect: {reason}"
    if isinstance(error, TimeoutError):
        return "net/http: request canceled (Client.Timeout exceeded while awaiting headers)"
    if isinstance(error, OSError) and error.errno == errno.ECONNRESET:
        return "read: connection reset by peer"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return "EOF"
    return str(error) or type(error).__name__


def _x509(error: BaseException) -> str:
    cause = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
    code = getattr(cause, "verify_code", 0)
    if code in (18, 19, 20, 21):  # self-signed, or no issuer known
        return "certificate signed by unknown authority"
    if code == 10:
        return "certificate has expired or is not yet valid"
    return str(getattr(cause, "verify_message", cause))
