"""Health checks: run the probe in the container at its times, and say when it is starting, healthy or unhealthy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import msgspec

from barque.engine import clock, names
from barque.engine.containers import execs, stop
from barque.engine.containers.context import Context
from barque.engine.containers.model import Health, HealthResult
from barque.engine.containers.options import ContainerConfig, Healthcheck
from barque.engine.containers.registry import Live
from barque.errors import BarqueError, InvalidArgument
from barque.runtime.failure import RuntimeFailure
from barque.supervise.messages import ExecOrder

log = logging.getLogger("barque.engine")

SECOND = 10**9
INTERVAL, TIMEOUT, START_INTERVAL, RETRIES = 30 * SECOND, 30 * SECOND, 5 * SECOND, 3
#: docker keeps so many results, and so many bytes of each one's output.
KEPT_RESULTS, KEPT_OUTPUT = 5, 4096


def check(config: ContainerConfig) -> None:
    """Raises InvalidArgument for a health check that makes no sense."""
    asked = config.healthcheck
    if asked is None:
        return
    for name, value in (("Interval", asked.interval), ("Timeout", asked.timeout), ("StartPeriod", asked.start_period),
                        ("StartInterval", asked.start_interval)):
        if value and value < 1_000_000:
            raise InvalidArgument(f"{name} in Healthcheck cannot be less than one millisecond")
    if asked.retries < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")
    if asked.test and asked.test[0] not in ("NONE", "CMD", "CMD-SHELL", ""):
        raise InvalidArgument(f"Unknown healthcheck type '{asked.test[0]}' (expected 'CMD')")


def probe_command(config: ContainerConfig) -> list[str] | None:
    """The command that tests the container, None where nothing does."""
    test = config.healthcheck.test if config.healthcheck else None
    if not test or test[0] == "NONE":
        return None
    if test[0] == "CMD-SHELL":
        return [*(config.shell or ["/bin/sh", "-c"]), *test[1:2]]
    return test[1:] or None


def initial(config: ContainerConfig) -> Health | None:
    return Health() if probe_command(config) else None


def watch(ctx: Context, live: Live) -> None:
    """Begin to probe a container that has just been started (or adopted), where it asks for that."""
    command = probe_command(live.container.config)
    if command:
        live.tasks["health"] = ctx.tasks.spawn(_loop(ctx, live, command), f"health {live.id[:12]}")


async def _loop(ctx: Context, live: Live, command: list[str]) -> None:
    asked = live.container.config.healthcheck or Healthcheck()
    began = time.monotonic_ns() - max(0, time.time_ns() - clock.parse(live.facts.started_at))
    while live.facts.alive:
        starting = (live.container.health or Health()).status == "starting"
        in_start = starting and time.monotonic_ns() - began < asked.start_period
        interval = (asked.start_interval or START_INTERVAL) if in_start else (asked.interval or INTERVAL)
        await asyncio.sleep(interval / SECOND)
        if live.facts.status != "running":
            continue
        result = await _probe(ctx, live, command, (asked.timeout or TIMEOUT) / SECOND)
        if result is None:
            return
        ctx.metrics.count("health_checks")
        ctx.metrics.count("health_checks_failed", result.exit_code != 0)
        in_start = time.monotonic_ns() - began < asked.start_period
        await _judge(ctx, live, result, asked.retries or RETRIES, in_start=in_start)


def judge(health: Health, result: HealthResult, retries: int, *, in_start: bool) -> Health:
    """The state after ``result``; failures in the start period do not count until it was healthy once. Pure."""
    entries = (*health.log, result)[-KEPT_RESULTS:]
    if result.exit_code == 0:
        return Health(status="healthy", failing_streak=0, log=entries)
    if in_start and health.status == "starting":
        return msgspec.structs.replace(health, log=entries)
    streak = health.failing_streak + 1
    return Health(status="unhealthy" if streak >= retries else health.status, failing_streak=streak, log=entries)


async def _judge(ctx: Context, live: Live, result: HealthResult, retries: int, *, in_start: bool) -> None:
    before = live.container.health or Health()
    after = judge(before, result, retries, in_start=in_start)
    live.container.health = after
    if after.status != before.status:
        await ctx.registry.save(live)
        ctx.event(live, f"health_status: {after.status}")
        if after.status == "unhealthy" and live.container.host_config.restart_policy.name == "on-unhealthy":
            live.unhealthy = True
            ctx.tasks.spawn(stop.bring_down(ctx, live), f"unhealthy {live.id[:12]}")


async def _probe(ctx: Context, live: Live, command: list[str], timeout: float) -> HealthResult | None:
    """One run of the probe; None where the container has gone meanwhile."""
    monitor = live.monitor
    if monitor is None:
        return None
    exec_id = names.new_id()
    begun = clock.now()
    output = b""
    order = ExecOrder(exec_id=exec_id, process=execs.build_process(ctx, live, execs.ExecOptions(), command, tty=False),
                      stdout=True, stderr=True)
    ctx.event(live, "exec_create: " + " ".join(command), execID=exec_id)
    writer = None
    try:
        with live.execs:
            reader, writer = await monitor.attach(exec_id, stdin=False, stdout=True, stderr=True)
            await monitor.exec(order)
        ctx.event(live, "exec_start: " + " ".join(command), execID=exec_id)
        try:
            async with asyncio.timeout(timeout):
                output = await _collect(reader)
                code = await monitor.wait_exec(exec_id)
        except TimeoutError:
            with contextlib.suppress(BarqueError, RuntimeFailure):
                await monitor.signal(9, exec_id)
            code, output = -1, f"Health check exceeded timeout ({timeout:g}s)".encode()
    except (BarqueError, RuntimeFailure) as error:
        if not live.facts.alive:
            return None
        code, output = -1, str(error).encode()
    finally:
        if writer is not None:
            writer.close()
    ctx.event(live, "exec_die", execID=exec_id, exitCode=str(code))
    return HealthResult(start=begun, end=clock.now(), exit_code=code, output=output.decode(errors="replace"))


async def _collect(reader: asyncio.StreamReader) -> bytes:
    """The payload of the 8-byte frames, up to KEPT_OUTPUT bytes."""
    output = b""
    while True:
        try:
            header = await reader.readexactly(8)
            data = await reader.readexactly(int.from_bytes(header[4:], "big"))
        except asyncio.IncompleteReadError:
            return output
        if len(output) < KEPT_OUTPUT:
            output = (output + data)[:KEPT_OUTPUT]
