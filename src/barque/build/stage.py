"""One stage: its base, then each of its instructions, from the cache where that knows the result."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import cast

from msgspec.structs import replace as with_fields

from barque.build import clock, comments
from barque.build.args import Expansion
from barque.build.cache import key_of
from barque.build.cache_images import Made
from barque.build.dockerfile import instructions as i
from barque.build.dockerfile.errors import SyntaxProblem
from barque.build.dockerfile.parser import parse_one
from barque.build.layers import Layer
from barque.build.output import Channel
from barque.build.parts import Site
from barque.build.plan import Origin, PlannedStage
from barque.build.ports import RunOrder
from barque.build.remote import parse_git
from barque.build.state import DEFAULT_PATH, State, set_env
from barque.build.steps import config
from barque.build.steps import run as running_steps
from barque.build.steps.files import Fetched, Selection, Tree, is_git, is_http, write_inline
from barque.build.steps.mounts import Mounts, parsed
from barque.errors import BarqueError, InvalidArgument
from barque.oci import platform as platforms
from barque.oci.digest import Digest
from barque.oci.platform import Platform
from barque.sys.beneath import open_in_root

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class StageBuild:
    def __init__(self, site: Site, stage: PlannedStage, channel: Channel, first_step: int, total: int) -> None:
        self._site = site
        self._stage = stage
        self._channel = channel
        self._number = first_step
        self._total = total
        self._arguments = site.arguments.stage()
        self._state: State

    async def run(self, stack: AsyncExitStack) -> State:
        """The state after the last instruction; ``stack`` holds what later stages may still copy from."""
        self._announce(self._stage.start.text)
        self._state = await self._base()
        await self._triggers()
        self._show_id()
        for step in self._stage.steps:
            self._announce(step.text)
            await self._step(step)
            self._show_id()
        if self._state.image_id:
            self._channel.aux({"ID": self._state.image_id})
        self._channel.close()
        return self._state

    def _announce(self, text: str) -> None:
        self._channel.text(f"Step {self._number}/{self._total} : {text}\n")
        self._number += 1

    def _show_id(self) -> None:
        short = Digest(self._state.image_id).hex[:12] if self._state.image_id else ""
        self._channel.text(f" ---> {short}\n")

    async def _base(self) -> State:
        """What FROM says, with nothing of it that belongs to that stage alone."""
        origin = self._stage.base
        platform = platforms.parse(self._stage.platform) if self._stage.platform else self._site.options.platform
        if origin.stage is not None:
            state = replace(await self._site.results[origin.stage], author="", cmd_set=False)
        elif origin.is_scratch:
            state = State(platform=platform or self._site.platform)
        else:
            state = await self._image(origin.image, platform)
        if not any(item.startswith("PATH=") for item in state.config.env or ()):
            _, path = DEFAULT_PATH.split("=", 1)
            state = state.configured(with_fields(state.config, env=set_env(state.config.env, "PATH", path)))
        return state

    async def _image(self, name: str, platform: Platform | None) -> State:
        site = self._site
        image = await site.parts.images.base(name, platform, pull=site.options.pull, report=self._channel.message,
                                             lease=site.lease, credentials=site.options.credentials)
        found = image.config
        return State(
            platform=Platform(os=found.os or "linux", architecture=found.architecture, variant=found.variant),
            config=found.config or State(platform=Platform()).config, layers=image.manifest.layers,
            diff_ids=found.rootfs.diff_ids, chain_id=image.chain_id, history=found.history or (),
            created=found.created, image_id=image.id, target=image.target)

    async def _triggers(self) -> None:
        triggers = self._state.config.on_build or ()
        if not triggers:
            return
        self._channel.text(f"# Executing {len(triggers)} build trigger{'s' if len(triggers) > 1 else ''}\n")
        self._state = self._state.configured(with_fields(self._state.config, on_build=None))
        for text in triggers:
            await self._step(parse_one(text, self._site.escape))

    @property
    def _expansion(self) -> Expansion:
        return Expansion({**self._arguments.allowed(), **self._state.env}, self._site.escape)

    async def _step(self, step: i.Instruction) -> None:
        try:
            expanded = step.expanded(self._expansion)
            if config.is_config(expanded):
                await self._configure(expanded)
            elif isinstance(expanded, i.Workdir):
                await self._workdir(expanded)
            elif isinstance(expanded, i.Run):
                await self._run(expanded)
            else:
                await self._copy(cast(i.Copy | i.Add, expanded))
        except SyntaxProblem as error:
            raise InvalidArgument(str(error)) from None

    async def _configure(self, step: i.Instruction) -> None:
        if isinstance(step, i.Arg):
            for argument in step.arguments:
                self._arguments.declare(argument)
        change = config.apply(self._state, step, self._expansion)
        created_by = comments.nop(change.state.shell, change.comment)
        key = key_of([self._state.content_key, created_by])
        if not await self._cached(key, change.state, created_by):
            await self._made(key, change.state, created_by, None)

    async def _cached(self, key: str, state: State, created_by: str, *, told_by_history: bool = True) -> bool:
        """Take over what was made before, if anything was; ``told_by_history``: ``created_by`` says all there is."""
        if self._site.options.no_cache:
            return False
        entry = await self._site.found.find(key)
        made = None if entry is None else Made(clock.rfc3339(entry.created), entry.made)
        if made is None and told_by_history:
            made = await self._site.cache_images.find(self._state, created_by)
        if made is None:
            return False
        self._channel.text(" ---> Using cache\n")
        self._state = state.stepped(made.created, created_by, made.layer)
        return True

    async def _made(self, key: str, state: State, created_by: str, layer: Layer | None) -> None:
        created = clock.now_or(self._site.options.epoch)
        parent = self._state.image_id
        await self._site.parts.cache.add(key, parent, created_by, layer, created)
        self._state = state.stepped(clock.rfc3339(created), created_by, layer)

    async def _workdir(self, step: i.Workdir) -> None:
        path = config.working_directory(self._state.config.working_dir, step.path)
        state = self._state.configured(with_fields(self._state.config, working_dir=path))
        created_by = comments.nop_files(state.shell, f"WORKDIR {path}")
        key = self._key(created_by)
        if not await self._cached(key, state, created_by):
            layer = await self._site.parts.files.make_directory(self._site.lease, self._state, path,
                                                                self._site.options.epoch)
            await self._made(key, state, created_by, layer)

    def _key(self, *parts: str) -> str:
        """Over what there is so far, and what limits the times of files."""
        return key_of([self._state.content_key, str(self._site.options.epoch), *parts])

    async def _copy(self, step: i.Copy | i.Add) -> None:
        async with AsyncExitStack() as stack:
            tree = await self._tree(step.source_stage if isinstance(step, i.Copy) else "", stack)
            fetched = await self._fetch(step, stack)
            selection = await self._site.parts.files.select(step, tree, fetched)
            await self._place(step, selection)

    async def _place(self, step: i.Copy | i.Add, selection: Selection) -> None:
        name = type(step).__name__.upper()
        chown = f"--chown={step.chown}" if step.chown else ""
        created_by = comments.nop_files(
            self._state.shell, f"{name} {chown}{selection.digest} in {step.destination} ")
        extra = [step.chmod, str(step.link), repr(step.exclude)]
        extra += [str(step.parents), repr(step.sources)] if isinstance(step, i.Copy) else [str(step.unpack)]
        key = self._key(created_by, *extra)
        plain = not (step.chmod or step.link or step.exclude) and not (isinstance(step, i.Copy) and step.parents)
        if await self._cached(key, self._state, created_by, told_by_history=plain):
            return
        if not selection.count:
            await self._made(key, self._state, created_by, None)
            return
        site = self._site
        layer = await site.parts.files.place(site.lease, self._state, step, selection, site.options.epoch)
        await self._made(key, self._state, created_by, layer)

    async def _tree(self, name: str, stack: AsyncExitStack) -> Tree | None:
        """What ``--from`` names; "" is the build context, None where there is none."""
        if not name:
            context = self._site.context
            return Tree(fd=context.fd, implicit=context.implicit) if context.fd is not None else None
        origin = self._stage.sources.get(name) or Origin(image=name)
        if origin.stage is not None:
            state = await self._site.results[origin.stage]
        else:
            state = await self._image(origin.image, self._site.options.platform)
        snapshots = self._site.parts.layers.snapshots
        lower = await snapshots.image_lower(state.chain_id)
        empty = os.path.join(snapshots.root, "empty")
        return Tree(lower=[*lower, empty] if len(lower) < 2 else lower, from_image=True)

    async def _fetch(self, step: i.Copy | i.Add, stack: AsyncExitStack) -> list[Fetched]:
        """What does not come from a tree: here-documents and the remote sources of ADD."""
        found: list[Fetched] = []
        if isinstance(step, i.Add):
            for source in step.sources:
                if is_git(source):
                    found.append(await self._clone(step, source))
                elif is_http(source):
                    found.append(await self._download(step, source))
        found += await asyncio.to_thread(write_inline, step.files, self._site.scratch)
        for item in found:
            stack.callback(os.close, item.fd)
        return found

    async def _download(self, step: i.Add, source: str) -> Fetched:
        download = await self._site.parts.fetcher.download(source, self._site.scratch, step.checksum)
        name = download.name
        if not name:
            if step.destination.endswith("/"):
                raise InvalidArgument(f"ADD failed: cannot determine filename for source {source}")
            name = "__unnamed__"
        self._channel.text("\n")
        return Fetched(os.open(download.directory, _DIRECTORY), name, step.unpack is True)

    async def _clone(self, step: i.Add, source: str) -> Fetched:
        address = parse_git(source)
        root = await self._site.parts.fetcher.clone(address, self._site.scratch,
                                                    keep_git_dir=step.keep_git_dir is True)
        top = os.open(root, _DIRECTORY)
        if not address.subdirectory:
            return Fetched(top, "", directory=True)
        try:
            return Fetched(open_in_root(top, address.subdirectory, _DIRECTORY), "", directory=True)
        except OSError as error:
            raise InvalidArgument(f"ADD failed: {source}: {os.strerror(error.errno or 0).lower()}") from None
        finally:
            os.close(top)

    async def _run(self, step: i.Run) -> None:
        site, state = self._site, self._state
        command = running_steps.command_of(step, state.shell)
        created_by = comments.run(command.shown, self._arguments.in_history(state.env))
        async with AsyncExitStack() as stack:
            mounts = Mounts(site.parts.files, site.parts.layers, site.parts.workers, site.parts.cache_mounts,
                            site.options, site.scratch)
            looked = await mounts.look(parsed(step.mounts, self._expansion), state,
                                       lambda name: self._tree(name, stack))
            key = self._key(created_by, looked, step.network, step.security)
            plain = not step.mounts and step.network == "default" and step.security == "sandbox"
            if await self._cached(key, state, created_by, told_by_history=plain):
                return
            mounted = await mounts.make(stack)
            if command.script:
                script = mounts.script(command.script, command.script_path)
                mounted = replace(mounted, binds=(*mounted.binds, script))
            order = running_steps.order_for(state, step, command, self._arguments.for_run(state.env), mounted,
                                            site.options)
            layer = await self._execute(order, command)
        await self._made(key, state, created_by, layer)

    async def _execute(self, order: RunOrder, command: running_steps.Command) -> Layer | None:
        site = self._site
        async with site.parts.runner.run(order) as running:
            self._channel.text(f" ---> Running in {running.id[:12]}\n")
            try:
                await running_steps.follow(running, self._channel, command)
            except BarqueError:
                await site.parts.exporter.keep(site.lease, self._state)
                raise
            layer = await site.parts.layers.seal(site.lease, running.id, self._state.chain_id, site.options.epoch,
                                                 running.mount_points)
        if site.options.remove:
            self._channel.text(f"Removing intermediate container {running.id[:12]}\n")
        return layer
