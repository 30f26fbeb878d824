"""Failures -> answers, in one place: ``{"message": ...}`` with the status of the kind of error."""

from __future__ import annotations

import errno
import logging
import os
import secrets
from collections.abc import Awaitable, Callable

from aiohttp import web

from barque.api.hijack import TakenOver
from barque.errors import BarqueError
from barque.oci import go_json
from barque.runtime.failure import RuntimeFailure

log = logging.getLogger("barque.api")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def failure(status: int, message: str) -> web.Response:
    if status == 304:
        return web.Response(status=304)
    return web.Response(status=status, body=go_json.encode({"message": message}), content_type="application/json")


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The boundary of a request: what is no answer is a bug, told with an id that finds its traceback in the log."""
    try:
        return await handler(request)
    except BarqueError as error:
        if error.status >= 500:
            log.error("%s %s: %s", request.method, request.path, error.message)
        return _answer(request, error.status, error.message)
    except RuntimeFailure as error:
        log.error("%s %s: %s", request.method, request.path, error)
        return _answer(request, 500, str(error))
    except web.HTTPException as error:
        if error.status in (404, 405):
            return failure(404, "page not found")
        return failure(error.status, error.reason)
    except (ConnectionResetError, BrokenPipeError):
        raise
    except OSError as error:
        text = full_disk(error)
        if not text:
            return _bug(request, error)
        log.error("%s %s: %s", request.method, request.path, text)
        return _answer(request, 500, text)
    except Exception as error:
        return _bug(request, error)


def full_disk(error: OSError) -> str:
    """What to tell of a disk without room, the one failure of the machine that is no bug; "" for any other."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    where = f"{error.filename}: " if isinstance(error.filename, str) else ""
    return where + os.strerror(error.errno).lower()


def _bug(request: web.Request, error: Exception) -> web.StreamResponse:
    reference = secrets.token_hex(4)
    log.error("%s %s failed (%s)", request.method, request.path, reference, exc_info=error)
    return _answer(request, 500, f"{type(error).__name__}: {error} (see the log, {reference})")


def _answer(request: web.Request, status: int, message: str) -> web.StreamResponse:
    """Once an answer has begun nothing can be said any more: the connection is cut, so that the client knows."""
    begun = request.get("response")
    if isinstance(begun, TakenOver) or (begun is not None and begun.prepared):
        transport = request.transport
        if transport is not None:
            transport.abort()
        raise ConnectionResetError("failed in the middle of an answer")
    return failure(status, message)
