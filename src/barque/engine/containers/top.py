"""The processes of a container, by running ps on the host for exactly them."""

from __future__ import annotations

import asyncio
import os
import shutil

from barque.engine.containers import machine
from barque.engine.containers.cgroup import container_cgroup
from barque.engine.containers.context import Context
from barque.errors import Internal, Unsupported


class PsFailed(Internal):
    text = "ps: {reason}"


class NoPidColumn(Internal):
    text = "Couldn't find PID field in ps output"


async def top(ctx: Context, ref: str, ps_args: str) -> dict[str, list[object]]:
    """``Titles`` and ``Processes`` for the given ps(1) arguments (default ``-ef``), which must show the pid."""
    live = ctx.registry.find(ref)
    if not live.facts.alive:
        raise machine.NotRunning(id=live.id)
    arguments = (ps_args or "-ef").split()
    for word in arguments:
        if word.lstrip("-")[:1].lower() == "o" and "pid" not in ps_args.lower():
            raise NoPidColumn
    pids = await asyncio.to_thread(container_cgroup(live).pids)
    try:
        output = await _ps([*arguments, "-q", ",".join(map(str, pids))] if pids else arguments)
    except PsFailed:
        # Some arguments (-e, -f of BSD style) do not go with a list of pids: take all and choose.
        output = await _ps(arguments)
    result = parse(output, set(pids))
    ctx.event(live, "top")
    return result


async def _ps(arguments: list[str]) -> str:
    if shutil.which("ps") is None:
        raise Unsupported("this host has no ps command")
    process = await asyncio.create_subprocess_exec(
        "ps", *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"})
    out, error = await process.communicate()
    if process.returncode:
        raise PsFailed(reason=error.decode(errors="replace").strip().partition("\n")[0])
    return out.decode(errors="replace")


def parse(output: str, pids: set[int]) -> dict[str, list[object]]:
    """The rows of ``pids``; the last column keeps its blanks."""
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise NoPidColumn
    column = titles.index("PID")
    rows: list[object] = []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdecimal() and int(fields[column]) in pids:
            rows.append(fields)
    return {"Titles": list(titles), "Processes": rows}
