"""One stage: its base, then each of its instructions, from the cache where that knows the result."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import cast

from msgspec.structs import replace as with_fields

from barque.build import clock, comments
from barque.build.args import Expansion
from barque.build.cache import Facts, key_of
from barque.build.dockerfile import instructions as i
from barque.build.dockerfile.errors import SyntaxProblem, excerpt
from barque.build.dockerfile.parser import parse_one
from barque.build.events import FAILED_IMAGE, place
from barque.build.layers import Layer
from barque.build.lookup import Identity, Lookup
from barque.build.output import Channel
from barque.build.parts import Site
from barque.build.plan import PlannedStage
from barque.build.ports import RunOrder
from barque.build.state import DEFAULT_PATH, State, set_env
from barque.build.steps import config
from barque.build.steps import run as running_steps
from barque.build.steps.files import Selection
from barque.build.steps.mounts import Mounts, parsed
from barque.build.steps.owners import Owner
from barque.build.steps.sources import Sources
from barque.errors import BarqueError, InvalidArgument
from barque.oci import platform as platforms
from barque.oci.digest import Digest
from barque.oci.platform import Platform


class StageBuild:
    def __init__(self, site: Site, stage: PlannedStage, channel: Channel) -> None:
        self._site = site
        self._stage = stage
        self._channel = channel
        self._arguments = site.arguments.stage()
        self._lookup = Lookup(site)
        self._sources = Sources(site, stage, lambda name: self._image(name, site.options.platform))
        self._state: State
        self._current: i.Instruction = stage.start
        self._step_text = ""
        self._cached_steps: list[bool] = []
        self._size = 0

    async def run(self) -> State:
        """The state after the last instruction."""
        try:
            self._begin(self._stage.start)
            self._state = await self._base()
            await self._triggers()
            self._end()
            for step in self._stage.steps:
                self._begin(step)
                await self._step(step)
                self._end()
        except BarqueError as error:
            self._channel.end(error=error.message, why=self._lookup.why)
            step = self._current
            self._channel.tell(place(step.line, excerpt(self._site.context.dockerfile, step.line, step.last_line)))
            raise
        if self._state.image_id:
            self._channel.aux({"ID": self._state.image_id})
        self._channel.close()
        return self._state

    def _begin(self, step: i.Instruction) -> None:
        self._current, self._step_text = step, step.text
        self._cached_steps, self._size = [], 0
        self._lookup.why = ""
        self._channel.begin(step)

    def _end(self) -> None:
        short = Digest(self._state.image_id).hex[:12] if self._state.image_id else ""
        self._channel.text(f" ---> {short}\n")
        cached = bool(self._cached_steps) and all(self._cached_steps)
        self._channel.end(cached=cached, why="" if cached else self._lookup.why, size=self._size)

    async def _base(self) -> State:
        """What FROM says, with nothing of it that belongs to that stage alone."""
        origin = self._stage.base
        platform = platforms.parse(self._stage.platform) if self._stage.platform else self._site.options.platform
        if origin.stage is not None:
            self._site.below[self._stage.number] = origin.stage
            state = replace(await self._site.results[origin.stage], author="", cmd_set=False)
        elif origin.is_scratch:
            state = State(platform=platform or self._site.platform)
        else:
            state = await self._image(origin.image, platform)
        self._site.bases[self._stage.number] = state
        if not any(item.startswith("PATH=") for item in state.config.env or ()):
            _, path = DEFAULT_PATH.split("=", 1)
            state = state.configured(with_fields(state.config, env=set_env(state.config.env, "PATH", path)))
        return state

    async def _image(self, name: str, platform: Platform | None) -> State:
        site = self._site
        image = await site.parts.images.base(name, platform, pull=site.options.pull, report=self._channel.progress,
                                             lease=site.lease, credentials=site.options.credentials)
        site.materials[name] = image.target
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
            self._step_text = text
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
        identity = Identity(key, created_by, self._facts({"values": change.comment}))
        if not await self._cached(identity, change.state):
            await self._made(identity, change.state, None)

    def _facts(self, parts: dict[str, str]) -> Facts:
        return Facts(self._state.content_key, self._step_text, parts)

    async def _cached(self, identity: Identity, state: State) -> bool:
        """Take over what was made before, if anything was; ``state`` is what the step starts from."""
        self._site.keys.setdefault(self._stage.number, []).append(identity.key)
        made = await self._lookup.find(identity, self._state)
        self._cached_steps.append(made is not None)
        if made is None:
            return False
        self._channel.text(" ---> Using cache\n")
        self._state = state.stepped(made.created, identity.created_by, made.layer)
        return True

    async def _made(self, identity: Identity, state: State, layer: Layer | None) -> None:
        created = clock.now_or(self._site.options.epoch)
        self._size = layer.size if layer else 0
        await self._site.parts.cache.add(identity.key, self._state.image_id, identity.created_by, layer, created,
                                         identity.facts)
        self._state = state.stepped(clock.rfc3339(created), identity.created_by, layer)

    async def _workdir(self, step: i.Workdir) -> None:
        path = config.working_directory(self._state.config.working_dir, step.path)
        state = self._state.configured(with_fields(self._state.config, working_dir=path))
        created_by = comments.nop_files(state.shell, f"WORKDIR {path}")
        identity = Identity(self._key(created_by), created_by, self._facts({"path": path, "times": self._epoch}))
        if not await self._cached(identity, state):
            layer = await self._site.parts.files.make_directory(self._site.lease, self._state, path,
                                                                self._site.options.epoch)
            await self._made(identity, state, layer)

    @property
    def _epoch(self) -> str:
        """What limits the times of files."""
        return str(self._site.options.epoch)

    def _key(self, *parts: str) -> str:
        return key_of([self._state.content_key, self._epoch, *parts])

    async def _copy(self, step: i.Copy | i.Add) -> None:
        files = self._site.parts.files
        async with AsyncExitStack() as stack:
            tree = await self._sources.tree(step.source_stage if isinstance(step, i.Copy) else "")
            fetched = await self._sources.fetch(step, stack)
            selection = await files.select(step, tree, fetched)
            owner = await files.owner(step, selection, self._state)
            identity = self._identity(step, selection, owner)
            if await self._cached(identity, self._state):
                return
            layer = None
            if selection.count:
                layer = await files.place(self._site.lease, self._state, step, selection, owner,
                                          self._site.options.epoch)
            await self._made(identity, self._state, layer)

    def _identity(self, step: i.Copy | i.Add, selection: Selection, owner: Owner) -> Identity:
        chown = f"--chown={step.chown}" if step.chown else ""
        name = type(step).__name__.upper()
        created_by = comments.nop_files(self._state.shell,
                                        f"{name} {chown}{selection.digest} in {step.destination} ")
        extra = [step.chmod, str(step.link), repr(step.exclude)]
        extra += [str(step.parents), repr(step.sources)] if isinstance(step, i.Copy) else [str(step.unpack)]
        if step.link:  # the layer is the same on any base
            where = config.working_directory(self._state.config.working_dir, step.destination)
            key = key_of(["link", self._epoch, selection.digest, where, str(step.destination.endswith("/")),
                          repr(owner), *extra])
        else:
            key = self._key(created_by, *extra)
        plain = not (step.chmod or step.link or step.exclude) and not (isinstance(step, i.Copy) and step.parents)
        parts = {**selection.parts(), "options": " ".join([chown, *extra]), "destination": step.destination,
                 "times": self._epoch}
        return Identity(key, created_by, self._facts(parts), plain)

    async def _run(self, step: i.Run) -> None:
        site, state = self._site, self._state
        command = running_steps.command_of(step, state.shell)
        arguments = self._arguments.in_history(state.env)
        created_by = comments.run(command.shown, arguments)
        async with AsyncExitStack() as stack:
            mounts = Mounts(site.parts.files, site.parts.layers, site.parts.workers, site.parts.cache_mounts,
                            site.options, site.scratch)
            looked = await mounts.look(parsed(step.mounts, self._expansion), state, self._sources.tree)
            binds = repr(site.options.binds) if site.options.binds else ""
            facts = self._facts({**{f"build argument {text.partition('=')[0]}": text for text in arguments},
                                 "mounts": looked + binds, "network": step.network, "security": step.security,
                                 "shell": " ".join(state.shell), "times": self._epoch})
            key = self._key(created_by, looked, step.network, step.security, *filter(None, [binds]))
            plain = not step.mounts and step.network == "default" and step.security == "sandbox" and not binds
            identity = Identity(key, created_by, facts, plain)
            if await self._cached(identity, state):
                return
            mounted = await mounts.make(stack)
            if command.script:
                script = mounts.script(command.script, command.script_path)
                mounted = replace(mounted, binds=(*mounted.binds, script))
            order = running_steps.order_for(state, step, command, self._arguments.for_run(state.env), mounted,
                                            site.options)
            layer = await self._execute(order, command)
        await self._made(identity, state, layer)

    async def _execute(self, order: RunOrder, command: running_steps.Command) -> Layer | None:
        site, layers = self._site, self._site.parts.layers
        async with site.parts.runner.run(order) as running:
            self._channel.text(f" ---> Running in {running.id[:12]}\n")
            try:
                await running_steps.follow(running, self._channel, command)
            except BarqueError:
                state = self._state
                if site.options.keep_failed:
                    layer = await layers.seal(site.lease, running.id, state.chain_id, -1, running.mount_points)
                    state = state.stepped(clock.rfc3339(clock.now_or(-1)), " ".join(command.shown), layer, "failed")
                await site.parts.exporter.keep(site.lease, state)
                if site.options.keep_failed:
                    self._channel.warning(f"The failed step is kept as image {state.image_id}\n")
                    self._channel.note(FAILED_IMAGE, state.image_id)
                raise
            layer = await layers.seal(site.lease, running.id, self._state.chain_id, site.options.epoch,
                                      running.mount_points)
        if site.options.remove:
            self._channel.text(f"Removing intermediate container {running.id[:12]}\n")
        return layer
