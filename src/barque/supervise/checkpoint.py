"""Writing a checkpoint of a container, by a process of its own: it may take as long as the memory is large."""

from __future__ import annotations

import msgspec

from barque.runtime import cgroups
from barque.runtime.criu.dump import Subject, dump
from barque.runtime.criu.options import Options
from barque.supervise import messages as m
from barque.supervise.backend import REFUSALS, as_failure
from barque.supervise.builtin import read_spec


class CheckpointRequest(msgspec.Struct, frozen=True):
    """``pid`` is the container's first process, ``bundle`` and ``cgroup`` are as its monitor has them."""

    pid: int
    bundle: str
    cgroup: dict[str, str]
    checkpoint: m.Checkpoint
    leave_running: bool


class CheckpointResult(msgspec.Struct, frozen=True):
    """With a failure the container runs on."""

    failure: m.Failure | None = None


def run(request: bytes, _: list[int]) -> bytes:
    """A worker of the zygote: answers an encoded :class:`CheckpointResult`."""
    order = msgspec.json.decode(request, type=CheckpointRequest)
    try:
        dump(Subject(order.pid, read_spec(order.bundle), f"{order.bundle}/rootfs", cgroups.load(order.cgroup)),
             Options(images=order.checkpoint.images, work=order.checkpoint.work, leave_running=order.leave_running))
    except REFUSALS as error:
        return msgspec.json.encode(CheckpointResult(as_failure("checkpoint", error)))
    return msgspec.json.encode(CheckpointResult())
