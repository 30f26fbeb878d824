"""``docker ps``: the containers that pass the filters, newest first, as list entries of the API."""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from barque.engine import clock
from barque.engine.containers import publish
from barque.engine.containers.context import Context
from barque.engine.containers.inspect import endpoint_settings, mount_point
from barque.engine.containers.machine import Facts, Status
from barque.engine.containers.model import Container
from barque.engine.containers.registry import Live
from barque.engine.filters import Filters, InvalidFilterValue, flag, match_labels
from barque.errors import BarqueError, InvalidArgument
from barque.oci.durations import human_duration

KEYS = frozenset({"ancestor", "before", "since", "exited", "expose", "publish", "health", "id", "isolation", "is-task",
                  "label", "name", "network", "status", "volume"})


async def containers(ctx: Context, filters: Filters, *, everything: bool, limit: int,
                     size: bool) -> list[dict[str, Any]]:
    """``limit`` > 0 takes the newest, running or not."""
    accept = await _filter(ctx, filters)
    found = sorted(ctx.registry, key=lambda live: live.container.created, reverse=True)
    if not (everything or limit > 0 or {"status", "exited"} & set(filters)):
        found = [live for live in found if live.facts.alive or live.facts.status is Status.RESTARTING]
    found = [live for live in found if live.container.name and accept(live)]
    if limit > 0:
        found = found[:limit]
    return [await _entry(ctx, live, size) for live in found]


async def _entry(ctx: Context, live: Live, size: bool) -> dict[str, Any]:
    container = live.container
    annotations = container.host_config.annotations
    entry: dict[str, Any] = {
        "Id": container.id, "Names": [container.slashed], "Image": container.image, "ImageID": container.image_id,
        "Command": shlex_join([container.path, *container.args]), "Created": clock.parse(container.created) // 10**9,
        "Ports": publish.port_list(container.config, container.sandbox) if live.facts.alive else [],
        "Labels": container.config.labels or {}, "State": str(live.facts.status), "Status": status_text(container),
        "HostConfig": {"NetworkMode": container.host_config.network_mode,
                       **({"Annotations": annotations} if annotations else {})},
        "NetworkSettings": {"Networks": endpoint_settings(container, ctx.networks.networks())},
        "Mounts": [mount_point(point) for point in container.mounts]}
    if container.health is not None:
        entry["Health"] = {"Status": container.health.status, "FailingStreak": container.health.failing_streak}
    if size:
        entry["SizeRw"] = await ctx.snapshots.container_size(container.id)
        entry["SizeRootFs"] = entry["SizeRw"] + await ctx.image_size(container.image_id)
    return entry


def shlex_join(command: list[str]) -> str:
    """As docker shows a command line: words with blanks in quotes."""
    return " ".join(shlex.quote(word) if any(c.isspace() for c in word) else word for word in command)


def status_text(container: Container) -> str:
    """``Up 2 minutes (healthy)``, ``Exited (0) 3 hours ago``, ``Created``."""
    facts = container.facts
    if facts.status is Status.RUNNING:
        health = container.health
        extra = f" ({'health: starting' if health.status == 'starting' else health.status})" if health else ""
        return f"Up {_since(facts.started_at)}{extra}"
    if facts.status is Status.PAUSED:
        return f"Up {_since(facts.started_at)} (Paused)"
    if facts.status is Status.RESTARTING:
        return f"Restarting ({facts.exit_code}) {_since(facts.finished_at)} ago"
    if facts.status is Status.REMOVING:
        return "Removal In Progress"
    if facts.status is Status.DEAD:
        return "Dead"
    if facts.status is Status.CREATED:
        return "Created"
    return f"Exited ({facts.exit_code}) {_since(facts.finished_at)} ago"


def _since(moment: str) -> str:
    return human_duration(max(0.0, (time.time_ns() - clock.parse(moment)) / 1e9))


Test = Callable[[Live], bool]
_NUMBER = re.compile(r"[+-]?[0-9]+\Z", re.ASCII)


async def _filter(ctx: Context, filters: Filters) -> Test:
    tests: list[Test] = []
    for key, values in filters.items():
        if key == "ancestor":
            tests.append(await _ancestor(ctx, values))
        elif key in ("before", "since"):
            tests.append(_relative(ctx, key, values))
        else:
            tests.append(_TESTS[key](values))
    return lambda live: all(test(live) for test in tests)


async def _ancestor(ctx: Context, values: list[str]) -> Test:
    ids = set()
    for value in values:
        try:
            ids.add((await ctx.images.resolve(value)).id)
        except BarqueError:
            continue
    return lambda live: live.container.image_id in ids or live.container.image in values


def _relative(ctx: Context, key: str, values: list[str]) -> Test:
    moments = [ctx.registry.find(value).container.created for value in values]
    if key == "before":
        return lambda live: all(live.container.created < moment for moment in moments)
    return lambda live: all(live.container.created > moment for moment in moments)


def _name(values: list[str]) -> Test:
    patterns = []
    for value in values:
        with contextlib.suppress(re.error):    # what is no expression fits nothing, as in dockerd
            patterns.append(re.compile(value))
    return lambda live: any(p.search(live.container.name) or p.search(live.container.slashed) for p in patterns)


def _status(values: list[str]) -> Test:
    for value in values:
        if value not in set(Status):
            raise InvalidFilterValue(key="status", value=value)
    return lambda live: live.facts.status in values


def _exited(values: list[str]) -> Test:
    codes = set()
    for value in values:
        if not _NUMBER.match(value):
            raise InvalidArgument(f"invalid filter 'exited={value}': strconv.Atoi: parsing \"{value}\": invalid syntax")
        codes.add(int(value))

    def test(live: Live) -> bool:
        facts: Facts = live.facts
        return facts.status is Status.EXITED and facts.exit_code in codes
    return test


def _health(values: list[str]) -> Test:
    for value in values:
        if value not in ("none", "starting", "healthy", "unhealthy"):
            raise InvalidArgument(f"unrecognized filter value for health: {value}")
    return lambda live: (live.container.health.status if live.container.health else "none") in values


def _port_range(key: str, value: str) -> tuple[int, int]:
    """First and last of a filter's ``80`` or ``0-1024``; raises InvalidArgument with dockerd's words."""
    if ":" in value:
        raise InvalidArgument(f"filter for '{key}' should not contain ':': {value}")
    text = value.partition("/")[0]
    numbers = text.split("-", 1)
    reason = "" if text else "Empty string specified for ports."
    for number in reversed(numbers if text else ()):
        if not (number.isascii() and number.isdecimal()):
            reason = f'strconv.ParseUint: parsing "{number}": invalid syntax'
        elif int(number) > 65535:
            reason = f'strconv.ParseUint: parsing "{number}": value out of range'
    if not reason and int(numbers[0]) > int(numbers[-1]):
        reason = f"Invalid range specified for the Port: {text}"
    if reason:
        raise InvalidArgument(f"error while looking up for {key} {value}: {reason}")
    return int(numbers[0]), int(numbers[-1])


def _ports(key: str, values: list[str]) -> Test:
    wanted = set()
    for value in values:
        protocol = value.partition("/")[2]
        first, last = _port_range(key, value)
        wanted |= {(port, protocol or "tcp") for port in range(first, last + 1)}

    def test(live: Live) -> bool:
        if key == "publish":
            sandbox = live.container.sandbox
            return any((item.container_port, item.protocol) in wanted for item in (sandbox.ports if sandbox else ()))
        return any(publish.parse_port(port) in wanted for port in live.container.config.exposed_ports or ())
    return test


def _volume(values: list[str]) -> Test:
    return lambda live: any(value in (point.name, point.source, point.destination)
                            for point in live.container.mounts for value in values)


def _network(values: list[str]) -> Test:
    def test(live: Live) -> bool:
        ids = {endpoint.network_id for endpoint in (live.container.sandbox.endpoints if live.container.sandbox else ())}
        return any(value in live.container.endpoints or any(i.startswith(value) for i in ids) for value in values)
    return test


def _is_task(values: list[str]) -> Test:
    """Tasks are swarm's: there are none."""
    wanted = flag({"is-task": values}, "is-task")
    return lambda _: not wanted


_TESTS: dict[str, Callable[[list[str]], Test]] = {
    "id": lambda values: lambda live: any(live.id.startswith(value) for value in values),
    "name": _name, "status": _status, "exited": _exited, "health": _health, "volume": _volume, "network": _network,
    "label": lambda values: lambda live: match_labels(values, live.container.config.labels),
    "expose": partial(_ports, "expose"), "publish": partial(_ports, "publish"),
    "isolation": lambda values: lambda _: "default" in values,
    "is-task": _is_task,
}
