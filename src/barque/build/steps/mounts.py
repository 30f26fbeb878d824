"""``RUN --mount``: what each kind of mount becomes in the container of the step."""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from barque.build.cache import key_of
from barque.build.dockerfile import run_mounts
from barque.build.dockerfile.instructions import Copy
from barque.build.dockerfile.run_mounts import RunMount
from barque.build.layers import LayerStore
from barque.build.options import BindMount, BuildOptions
from barque.build.ports import TmpfsMount, Workers
from barque.build.state import State
from barque.build.steps.cache_mounts import CacheMounts
from barque.build.steps.files import FileSteps, Selection, Tree
from barque.build.steps.run import Mounted
from barque.errors import InvalidArgument
from barque.store.place.messages import PlaceRequest, PlaceResult, Put
from barque.store.tar.messages import decode, encode

_SECRETS = "/run/secrets"
_AGENT = "/run/buildkit/ssh_agent.{number}"
#: Finds the tree that ``from=`` names; "" is the build context.
TreeOf = Callable[[str], Awaitable[Tree | None]]


class MissingSecret(InvalidArgument):
    text = "secret {id}: not found"


class MissingAgent(InvalidArgument):
    text = "no SSH key {id!r} forwarded from the client"


@dataclass
class _Plan:
    """A mount with its place in the container; ``selection``: what a bind or the beginning of a cache shows."""

    mount: RunMount
    target: str
    selection: Selection | None = None


class Mounts:
    """The mounts of one step: first looked at, for the cache key, then made, where the step really runs."""

    def __init__(self, files: FileSteps, layers: LayerStore, workers: Workers, caches: CacheMounts,
                 options: BuildOptions, scratch: str) -> None:
        self._files = files
        self._layers = layers
        self._workers = workers
        self._caches = caches
        self._options = options
        self._scratch = scratch
        self._plans: list[_Plan] = []

    async def look(self, mounts: tuple[RunMount, ...], state: State, tree_of: TreeOf) -> str:
        """What the mounts mean for the cache key. Raises InvalidArgument."""
        parts = []
        for mount in mounts:
            target = self._target(mount, state)
            plan = _Plan(mount, target)
            if mount.type == run_mounts.BIND or (mount.type == run_mounts.CACHE and mount.source_stage):
                plan.selection = await self._select(mount, await tree_of(mount.source_stage))
            shown = replace(mount, env=None) if mount.type == run_mounts.SECRET else mount
            parts += [repr(shown), target, plan.selection.digest if plan.selection else ""]
            self._plans.append(plan)
        return key_of(parts) if parts else ""

    def _target(self, mount: RunMount, state: State) -> str:
        if mount.target:
            return os.path.normpath(os.path.join("/", state.config.working_dir or "/", mount.target))
        if mount.type == run_mounts.SECRET:
            return f"{_SECRETS}/{mount.id or os.path.basename(mount.source)}"
        if mount.type == run_mounts.SSH:
            return ""
        raise InvalidArgument(f"invalid mount: target is required for a mount of type {mount.type}")

    async def _select(self, mount: RunMount, tree: Tree | None) -> Selection:
        step = Copy(text="", keyword="COPY", line=0, last_line=0, sources=(mount.source or "/",), destination="/x/")
        return await self._files.select(step, tree, ())

    async def make(self, stack: AsyncExitStack) -> Mounted:
        """The mounts, for as long as ``stack`` is open. Raises InvalidArgument for secrets that are missing."""
        binds: list[BindMount] = []
        tmpfs: list[TmpfsMount] = []
        env: list[str] = []
        for number, plan in enumerate(self._plans):
            mount = plan.mount
            if mount.type == run_mounts.TMPFS:
                tmpfs.append(TmpfsMount(plan.target, mount.size, mount.readonly))
            elif mount.type == run_mounts.SECRET:
                self._secret(plan, binds, env)
            elif mount.type == run_mounts.SSH:
                self._agent(plan, number, binds, env)
            elif mount.type == run_mounts.CACHE:
                path, fresh = await self._caches.enter(stack, mount, plan.target)
                if fresh and plan.selection is not None:
                    await self._copy(plan.selection, path)
                binds.append(BindMount(path, plan.target, mount.readonly))
            else:
                binds.append(await self._bind(plan))
        return Mounted(tuple(binds), tuple(tmpfs), tuple(env))

    async def _bind(self, plan: _Plan) -> BindMount:
        """A copy in scratch space: what the step writes into it is nobody else's."""
        assert plan.selection is not None
        path = os.path.join(self._scratch, f"bind-{secrets.token_hex(8)}")
        os.mkdir(path, 0o755)
        name = await self._copy(plan.selection, path)
        return BindMount(os.path.join(path, name) if name else path, plan.target, plan.mount.readonly)

    async def _copy(self, selection: Selection, path: str) -> str:
        """Copy the selection into ``path``; the name of what was copied where it is no directory."""
        [items] = selection.found
        [item] = items
        work = os.path.join(self._scratch, f"work-{secrets.token_hex(8)}")
        os.mkdir(work, 0o700)
        tree = selection.trees[0]
        fds = [tree.fd] if tree.fd >= 0 else []
        source = tree.source(0)
        put = Put(0, item.path, item.name, b"/", -1, -1, stamp=item.stamp) if item.directory else Put(
            0, item.path, os.path.basename(item.path), b"/" + os.path.basename(item.path), -1, -1, stamp=item.stamp)
        empty = os.path.join(self._layers.snapshots.root, "empty")
        result = decode(await self._workers.run("place", encode(PlaceRequest([empty], path, work, [source], [put])),
                                                fds), PlaceResult)
        if result.error is not None:
            raise InvalidArgument(f"failed to mount {os.fsdecode(item.name)}: {result.error.message}")
        return "" if item.directory else os.fsdecode(os.path.basename(item.path))

    def _secret(self, plan: _Plan, binds: list[BindMount], env: list[str]) -> None:
        mount = plan.mount
        name = mount.id or os.path.basename(mount.source or mount.target)
        value = self._options.secrets.get(name)
        if value is None:
            if mount.required:
                raise MissingSecret(id=name)
            return
        if mount.env is not None:
            env.append(f"{mount.env or name}={value.decode('utf-8', 'surrogateescape')}")
            if not mount.target:
                return
        path = self._file(value, 0o400 if mount.mode < 0 else mount.mode)
        os.chown(path, max(mount.uid, 0), max(mount.gid, 0))
        binds.append(BindMount(path, plan.target))

    def _agent(self, plan: _Plan, number: int, binds: list[BindMount], env: list[str]) -> None:
        name = plan.mount.id or "default"
        socket = self._options.ssh.get(name)
        if socket is None:
            if plan.mount.required:
                raise MissingAgent(id=name)
            return
        target = plan.target or _AGENT.format(number=number)
        binds.append(BindMount(socket, target))
        env.append(f"SSH_AUTH_SOCK={target}")

    def script(self, text: str, target: str) -> BindMount:
        """A program that stands in the Dockerfile, for the container to run."""
        return BindMount(self._file(text.encode(), 0o755), target)

    def _file(self, data: bytes, mode: int) -> str:
        path = os.path.join(self._scratch, f"file-{secrets.token_hex(8)}")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
            os.fchmod(fd, mode)
        return path


def parsed(texts: tuple[str, ...], expand: Callable[[str], str]) -> tuple[RunMount, ...]:
    return tuple(run_mounts.parse(text, expand) for text in texts)

