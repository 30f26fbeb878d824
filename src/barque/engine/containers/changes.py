"""``docker diff``: what a container changed in the files of its image."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from barque.engine.containers.context import Context
from barque.store.mend import Layers
from barque.store.tar import diff


async def changes(ctx: Context, ref: str) -> list[dict[str, Any]] | None:
    """Entries ``{"Path", "Kind"}`` sorted by path, None where there is none, as docker has it."""
    container = ctx.registry.find(ref).container
    upper = await ctx.snapshots.container_upper(container.id)
    lower = await ctx.snapshots.container_lower(container.id)
    with ctx.metrics.timed("container", "changes"):
        found = await asyncio.to_thread(_changes, upper, lower)
    return [{"Path": path, "Kind": kind} for path, kind in found] or None


def _changes(upper: str, lower: list[str]) -> list[tuple[str, int]]:
    fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with Layers(lower) as layers:
            return sorted((path.decode(errors="replace"), kind) for kind, path in diff.changes(fd, layers))
    finally:
        os.close(fd)
