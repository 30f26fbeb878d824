"""The commands pause, resume, update and events."""

from __future__ import annotations

import json
import os
import re
import select
import sys
from typing import TYPE_CHECKING

from barque.errors import Conflict, InvalidArgument
from barque.oci import go_json
from barque.oci.runtime_spec import CPU, BlockIO, Memory, Pids, Resources
from barque.oci.sizes import ram_in_bytes
from barque.runtime import state, usage

if TYPE_CHECKING:
    from barque.runtime.dispatch import Invocation
    from barque.runtime.flags import Parsed

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|s|m|h)\Z")


def pause_command(invocation: Invocation) -> int:
    container = state.load(invocation.root, invocation.container_id)
    if container.status() not in ("created", "running"):
        raise Conflict("container not running or created")
    container.cgroup.freeze()
    return 0


def resume_command(invocation: Invocation) -> int:
    container = state.load(invocation.root, invocation.container_id)
    if container.status() != "paused":
        raise Conflict("container not paused")
    container.cgroup.thaw()
    return 0


def update_command(invocation: Invocation) -> int:
    """Change limits: from a Resources document (``-r FILE``, ``-`` is stdin) or one by one from flags."""
    container = state.load(invocation.root, invocation.container_id)
    if container.status() == "stopped":
        raise Conflict("container not running")
    options = invocation.options
    source = options.text("resources")
    if source:
        if source == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(source, "rb") as file:
                data = file.read()
        wanted = go_json.decode(data, Resources)
    else:
        wanted = _from_flags(options)
    for warning in container.cgroup.apply(wanted):
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _from_flags(options: Parsed) -> Resources:
    if options.text("l3-cache-schema") or options.text("mem-bw-schema"):
        raise InvalidArgument("Intel RDT is not supported")
    memory = Memory(limit=_size(options, "memory"), reservation=_size(options, "memory-reservation"),
                    swap=_size(options, "memory-swap"))
    cpu = CPU(shares=options.number("cpu-share"), quota=options.number("cpu-quota"),
              period=options.number("cpu-period"), cpus=options.text("cpuset-cpus"), mems=options.text("cpuset-mems"),
              burst=options.number("cpu-burst"), idle=options.number("cpu-idle"),
              realtime_period=options.number("cpu-rt-period"), realtime_runtime=options.number("cpu-rt-runtime"))
    pids, weight = options.number("pids-limit"), options.number("blkio-weight")
    return Resources(memory=memory, cpu=cpu, pids=None if pids is None else Pids(limit=pids),
                     block_io=None if weight is None else BlockIO(weight=weight))


def _size(options: Parsed, flag: str) -> int | None:
    """``64M``; -1 means no limit. Raises InvalidArgument."""
    text = options.text(flag)
    if text in ("", "-1"):
        return -1 if text else None
    try:
        return ram_in_bytes(text)
    except ValueError:
        raise InvalidArgument(f"invalid value for {flag}: {text!r}") from None


def events_command(invocation: Invocation) -> int:
    """Print the statistics, with ``--stats`` once; else every interval, and each OOM, until the container ends."""
    container = state.load(invocation.root, invocation.container_id)
    if not container.alive():
        raise Conflict(f"container with id {container.state.id} is not running")
    interval = _seconds(invocation.options.text("interval") or "5s")
    if invocation.options.flag("stats"):
        _print(container, "stats")
        return 0
    with container.pidfd() as pidfd:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        oom = container.cgroup.oom_fd()
        if oom is not None:
            poller.register(oom, select.POLLIN | select.POLLPRI)
        while True:
            ready = [fd for fd, _ in poller.poll(interval * 1000)]
            if pidfd in ready:
                return 0
            if oom is not None and oom in ready:
                os.read(oom, 4096)
            _print(container, "oom" if ready else "stats")


def _seconds(text: str) -> float:
    match = _DURATION.match(text)
    if match is None or float(match[1]) <= 0:
        raise InvalidArgument(f"invalid duration {text!r}: interval must be greater than zero")
    return float(match[1]) * _UNITS[match[2]]


def _print(container: state.Container, kind: str) -> None:
    event: dict[str, object] = {"type": kind, "id": container.state.id}
    if kind == "stats":
        event["data"] = usage.document(container.cgroup.stats())
    print(json.dumps(event, separators=(",", ":")), flush=True)
