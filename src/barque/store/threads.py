"""Work that a cancelled caller must not leave half-way: in a thread, or as several awaits that belong together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def to_the_end(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """As ``asyncio.to_thread``; a cancellation is raised only after ``fn`` has returned.

    Otherwise the caller would close descriptors that the thread still writes to.
    """
    return await uncut(asyncio.to_thread(fn, *args, **kwargs))


async def uncut(steps: Awaitable[T]) -> T:
    """Await ``steps`` to their end; a cancellation of the caller is raised only then."""
    work = asyncio.ensure_future(steps)
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        work.exception()  # the caller has no use for it any more
        raise cancelled
    return work.result()
