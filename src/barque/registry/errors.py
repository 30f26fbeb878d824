"""Error codes of the distribution specification (spec.md#error-codes), each with its HTTP status."""

from __future__ import annotations

from typing import Any

import msgspec

from barque.registry.http.messages import Response

STATUS = {
    "BLOB_UNKNOWN": 404, "BLOB_UPLOAD_INVALID": 400, "BLOB_UPLOAD_UNKNOWN": 404, "DIGEST_INVALID": 400,
    "MANIFEST_BLOB_UNKNOWN": 404, "MANIFEST_INVALID": 400, "MANIFEST_UNKNOWN": 404, "NAME_INVALID": 400,
    "NAME_UNKNOWN": 404, "SIZE_INVALID": 400, "UNAUTHORIZED": 401, "DENIED": 403, "UNSUPPORTED": 405,
    "TOOMANYREQUESTS": 429, "RANGE_INVALID": 416, "PAGINATION_NUMBER_INVALID": 400, "TAG_INVALID": 400, "UNKNOWN": 500,
    "UNAVAILABLE": 503,
}
MESSAGES = {
    "BLOB_UNKNOWN": "blob unknown to registry",
    "BLOB_UPLOAD_INVALID": "blob upload invalid",
    "BLOB_UPLOAD_UNKNOWN": "blob upload unknown to registry",
    "DIGEST_INVALID": "provided digest did not match uploaded content",
    "MANIFEST_BLOB_UNKNOWN": "blob unknown to registry",
    "MANIFEST_INVALID": "manifest invalid",
    "MANIFEST_UNKNOWN": "manifest unknown",
    "NAME_INVALID": "invalid repository name",
    "NAME_UNKNOWN": "repository name not known to registry",
    "SIZE_INVALID": "provided length did not match content length",
    "UNAUTHORIZED": "authentication required",
    "DENIED": "requested access to the resource is denied",
    "UNSUPPORTED": "The operation is unsupported.",
    "TOOMANYREQUESTS": "too many requests",
    "RANGE_INVALID": "invalid content range",
    "PAGINATION_NUMBER_INVALID": "invalid number of results requested",
    "TAG_INVALID": "manifest tag did not match URI",
    "UNKNOWN": "unknown error",
    "UNAVAILABLE": "service unavailable",
}


class RegistryError(Exception):
    """A refusal: ``code`` of the specification, optional ``detail`` (any JSON value), ``status`` and extra headers."""

    def __init__(self, code: str, detail: Any = None, *, status: int | None = None,
                 headers: dict[str, str] | None = None) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.status = status or STATUS[code]
        self.headers = headers or {}

    def response(self) -> Response:
        error: dict[str, Any] = {"code": self.code, "message": MESSAGES[self.code]}
        if self.detail is not None:
            error["detail"] = self.detail
        return Response(self.status, {"Content-Type": "application/json", **self.headers},
                        msgspec.json.encode({"errors": [error]}, enc_hook=str))
