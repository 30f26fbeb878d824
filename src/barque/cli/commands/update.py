"""``update``."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.commands.create_flags import resource_flags
from barque.cli.errors import CommandError
from barque.cli.flags import BYTES, LIST, STRING, Flag
from barque.client.engine import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

_FIELDS = {
    "blkio-weight": "BlkioWeight", "cpu-shares": "CpuShares", "memory": "Memory",
    "memory-reservation": "MemoryReservation", "memory-swap": "MemorySwap", "kernel-memory": "KernelMemory",
    "cpu-period": "CpuPeriod", "cpu-quota": "CpuQuota", "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime", "cpus": "NanoCpus", "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
}


def _update(app: App, values: Values) -> int:
    from barque.cli.spec.container import restart_policy

    if not values.changed:
        raise CommandError("you must provide one or more flags when using this command")
    body: dict[str, Any] = {field: values[name] for name, field in _FIELDS.items()}
    if "pids-limit" in values.changed:
        body["PidsLimit"] = values["pids-limit"]
    if values["restart"]:
        try:
            body["RestartPolicy"] = restart_policy(values["restart"])
        except ValueError as error:
            raise CommandError(str(error)) from None
    if values["publish-add"] or values["publish-rm"]:
        from barque.cli.spec import ports

        try:
            body["PublishAdd"] = ports.published(list(values["publish-add"]))[1]
        except ValueError as error:
            raise CommandError(str(error)) from None
        body["PublishRemove"] = list(values["publish-rm"])
    errors: list[str] = []
    warnings: list[str] = []
    for name in values.arguments:
        try:
            answer = app.engine.post(f"/containers/{name}/update", None, body)
        except ApiError as error:
            errors.append(str(error))
            continue
        app.line(name)
        warnings += (answer or {}).get("Warnings") or []
    if warnings:
        app.out("\n".join(warnings))
    if errors:
        raise CommandError("\n".join(errors))
    return 0


UPDATE = Command("update", "[OPTIONS] CONTAINER [CONTAINER...]", "Update configuration of one or more containers",
                 _update,
                 least=1, flags=lambda: [
                     *resource_flags(),
                     Flag("kernel-memory", "", BYTES, "Kernel memory limit", hidden=True),
                     Flag("publish-add", "", LIST, "Publish one more port of the container"),
                     Flag("publish-rm", "", LIST, "Publish a host port no more (8080, 8080/udp)"),
                     Flag("restart", "", STRING, "What to do when the container exits"),
                 ], aliases="container update, update", examples="barque update --memory 512m --cpus 1.5 web")
