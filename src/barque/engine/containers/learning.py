"""``--security-opt seccomp=learn:FILE``: the process beside a container that learns its profile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from contextlib import AsyncExitStack

from barque.engine.containers import security
from barque.engine.containers.context import Context
from barque.engine.containers.model import Container
from barque.errors import Unavailable
from barque.oci import go_json
from barque.oci.runtime_spec import Spec
from barque.runtime import learn

_READY = b"listening\n"


class LearnerFailed(Unavailable):
    text = "cannot learn a seccomp profile: {reason}"


async def begin(ctx: Context, container: Container, spec: Spec, undo: AsyncExitStack) -> None:
    """If it was asked for, start the learner and have ``spec`` notify it; ended again when ``undo`` is.

    It outlives the daemon, as the container does, and ends with the container's last process. Raises
    :class:`LearnerFailed`, and InvalidProfile where there is nothing to learn from.
    """
    target = security.learning_file(container.host_config)
    if not target or spec.linux is None or spec.linux.seccomp is None:
        return
    # Beside the monitors' sockets: their directory's name is short enough for a socket's address.
    path = f"{ctx.config.exec_root}/m/{container.id[:12]}.learn"
    profile = spec.linux.seccomp
    asking = learn.asking(profile, path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    learner = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-m", "barque.runtime.learn", path, target, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True)
    ctx.tasks.spawn(_reap(learner), f"learner of {container.id[:12]}")
    undo.callback(_end, learner, path)
    assert learner.stdin and learner.stdout and learner.stderr
    learner.stdin.write(go_json.encode(profile))
    learner.stdin.close()
    if await learner.stdout.readline() != _READY:
        said = (await learner.stderr.read()).decode(errors="replace").strip().splitlines()
        raise LearnerFailed(reason=said[-1] if said else "the learner ended at once")
    spec.linux.seccomp = asking


async def _reap(learner: asyncio.subprocess.Process) -> None:
    await learner.wait()


def _end(learner: asyncio.subprocess.Process, path: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        learner.kill()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
