"""Several tasks of one operation: all succeed, or the first failure ends them all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, TypeVar

from barque.errors import BarqueError

log = logging.getLogger("barque.image")
T = TypeVar("T")


async def results(tasks: Sequence[asyncio.Task[T]]) -> list[T]:
    """The results in order; the first failure is raised at once, the others run on (see :func:`stop`)."""
    if tasks:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    return [task.result() for task in tasks]


async def stop(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what still runs, and return when it has ended."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception) and not isinstance(outcome, BarqueError):
            log.debug("a task ended with %r", outcome)
