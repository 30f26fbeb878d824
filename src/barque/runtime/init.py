"""The child's side of create(): one straight way from the fork to the container's program."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import msgspec

from barque.oci.runtime_spec import Hook, Hooks, Spec
from barque.runtime import hooks
from barque.runtime.birth import Birthplace
from barque.runtime.failure import RuntimeFailure
from barque.runtime.payload import Payload, set_groups
from barque.runtime.step import Context, Step
from barque.runtime.sync import ChildEnd
from barque.sys import prctl, process, sockets, tty

_FAILED = 1


class Order(msgspec.Struct, frozen=True):
    """What the child is to do, decided by the caller. ``hook_state`` makes what hooks get: (status, pid)."""

    spec: Spec
    payload: Payload
    steps: Sequence[Step]
    leaving: Sequence[Step]
    stdio: tuple[int, int, int] | None
    preserve_fds: int
    hook_state: Callable[[str, int], bytes]
    rootless: bool = False
    #: The steps are not prepared yet: the child can do that itself, and then mounts are listed in the document's order.
    late: bool = False

    @property
    def hooks(self) -> Hooks:
        return self.spec.hooks or Hooks()

    @property
    def outside_hooks(self) -> bool:
        """Whether the caller has hooks to run while the host's root is still in place."""
        return bool(self.hooks.prestart or self.hooks.create_runtime)

    @property
    def user_namespace(self) -> bool:
        """Whether the child is in a new one, whose maps it has to wait for."""
        return self.spec.linux is not None and any(
            item.type == "user" and not item.path for item in self.spec.linux.namespaces)


class Progress:
    """Where the child is: the stage that a failure is told with."""

    stage = "init"


def run(order: Order, channel: ChildEnd, place: Birthplace) -> NoReturn:
    """Become the container's first process; a failure is told to the caller and ends the process."""
    progress = Progress()
    try:
        progress.stage = "cgroup"
        place.enter()
        progress.stage = "init"
        _init(order, channel, progress)
    except BaseException as error:
        # Whatever it was: the child must never return into the caller's code.
        channel.failed(RuntimeFailure.of(progress.stage, error))
    finally:
        os._exit(_FAILED)


def _init(order: Order, channel: ChildEnd, at: Progress) -> None:
    context = Context(channel)
    payload = order.payload
    if order.rootless:
        # Its maker, an ordinary user, can only write the maps of a process that is not hidden.
        channel.wait_go()
    separate(order.preserve_fds)
    payload.open_labels()
    if order.user_namespace:
        # Until the maps are written there is no root to be in here.
        if not order.rootless:
            channel.wait_go()
        become_namespace_root()
    _execute(order.steps, context, at, prepare=order.late)
    if order.outside_hooks:
        channel.namespaces()
        channel.wait_resume()
    at.stage = "hook createContainer"
    _run_hooks("createContainer", order.hooks.create_container, order, "creating")
    _execute(order.leaving, context, at, prepare=False)

    at.stage = "hostname"
    if order.spec.hostname:
        sockets.sethostname(order.spec.hostname)
    if order.spec.domainname:
        prctl.set_domain_name(order.spec.domainname)

    path = prepare(payload, context, order.stdio, at)

    at.stage = "start"
    channel.ready(payload.warnings, context.console[0] if context.console else None)
    channel.wait_start()
    at.stage = "hook startContainer"
    _run_hooks("startContainer", order.hooks.start_container, order, "created")
    at.stage = "exec"
    payload.execute(path, channel.offer_listener)


def _run_hooks(stage: str, wanted: Sequence[Hook], order: Order, status: str) -> None:
    """Hooks of the container's side: the pid in their state is the one that they themselves can see."""
    if wanted:
        hooks.run(stage, wanted, order.hook_state(status, os.getpid()))


def _execute(steps: Sequence[Step], context: Context, at: Progress, *, prepare: bool) -> None:
    for step in steps:
        at.stage = step.describe()
        if prepare:
            step.prepare()
        step.execute(context)


def separate(preserve_fds: int) -> None:
    """Cut the child off from the caller: hidden from others, its own session, no descriptor left for the program.

    What is not imported by now never is: it would be the container's file that is found (CVE-2019-14271).

    ``preserve_fds`` descriptors from 3 on stay (the caller made them inheritable or not).
    """
    sys.meta_path.clear()
    prctl.set_dumpable(False)
    os.setsid()
    process.cloexec_from(3 + preserve_fds)
    for fd in range(3, 3 + preserve_fds):
        os.set_inheritable(fd, True)
    os.umask(0)


def become_namespace_root() -> None:
    """Uid 0 of the user namespace, with the capabilities that its maker has anyway."""
    os.setresgid(0, 0, 0)
    set_groups([])
    os.setresuid(0, 0, 0)
    # Changing ids made the process dumpable according to fs.suid_dumpable.
    prctl.set_dumpable(False)


def prepare(payload: Payload, context: Context, stdio: tuple[int, int, int] | None, at: Progress) -> str:
    """All that stands between a process in the right root and its exec; returns the path of the program."""
    at.stage = "process"
    payload.settle()
    at.stage = "user"
    payload.identify(context.root)
    at.stage = "stdio"
    box = payload.process.console_size
    if context.console is not None and box is not None:
        tty.set_size(context.console[1], box.height, box.width)
    payload.place_stdio(stdio, context.console[1] if context.console else None)
    at.stage = "cwd"
    payload.enter_cwd(context.root)
    at.stage = "user"
    payload.drop_privileges()
    at.stage = "label"
    payload.take_labels()
    at.stage = "exec"
    return payload.find_program()
