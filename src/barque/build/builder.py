"""A build: the stages that the target needs, side by side, and the image that comes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from barque.build import plan as planning
from barque.build.args import BuildArguments, platform_arguments
from barque.build.cache_images import CacheImage
from barque.build.context import BuildContext
from barque.build.dockerfile.arguments import Pair
from barque.build.dockerfile.errors import SyntaxProblem
from barque.build.dockerfile.instructions import Add, Copy, Label
from barque.build.dockerfile.parser import parse
from barque.build.events import BuildBegun, Listener
from barque.build.lookup import CacheSource
from barque.build.options import BuildOptions
from barque.build.output import Channel, Send, Transcript
from barque.build.parts import Parts, Site
from barque.build.plan import PlannedStage
from barque.build.squash import squashed
from barque.build.stage import StageBuild
from barque.build.state import State
from barque.build.steps.files import Surveyed, Tree
from barque.errors import BarqueError, InvalidArgument
from barque.oci import platform as platforms
from barque.oci.digest import Digest
from barque.store.leases import Lease
from barque.store.place.messages import Found


class NothingBuilt(InvalidArgument):
    text = "No image was generated. Is your Dockerfile empty?"
    status = 500


@dataclass(frozen=True)
class Outcome:
    """What the target has come to. Everything of it is held by the lease of ``site``."""

    state: State
    site: Site
    channel: Channel


#: Gives the result to whom it is for, while it is held.
Deliver = Callable[[Outcome], Awaitable[None]]


class Build:
    """One build. ``scratch`` is a directory that is gone after it; ``send`` takes docker's messages."""

    def __init__(self, parts: Parts, options: BuildOptions, context: BuildContext, scratch: str, send: Send,
                 build_id: str = "", listeners: Sequence[Listener] = ()) -> None:
        self._parts = parts
        self._options = options
        self._context = context
        self._scratch = scratch
        self._id = build_id
        self._transcript = Transcript(send, quiet=options.quiet or options.trace, listeners=listeners)
        self._dockerfile = parse(context.dockerfile)
        host = platforms.host()
        self._target = options.platform or host
        self._arguments = BuildArguments(options.arguments, platform_arguments(self._target, host, options.target))
        try:
            self._plan = self._planned()
        except SyntaxProblem as error:
            raise InvalidArgument(str(error)) from None

    def _planned(self) -> planning.Plan:
        plan = planning.resolve(self._dockerfile, self._options.target, self._arguments)
        last = plan.stages[-1]
        labels = [_label(last, key, value) for key, value in sorted(self._options.labels.items())]
        last.steps = [*last.steps, *labels]
        plan.total_steps += len(labels)
        return plan

    async def run(self, deliver: Deliver, sources: Sequence[CacheSource] = ()) -> str:
        """The id of the image. Raises BarqueError in docker's words; only the cache is left of a build that failed.

        ``sources``: further caches, asked in this order after those images of ``--cache-from`` that are here.
        """
        try:
            async with (self._parts.leases.hold("build") as lease, self._parts.cache.session() as found,
                        self._surveying() as surveyed):
                images = await self._cache_images(lease)
                site = Site(parts=self._parts, options=self._options, context=self._context, scratch=self._scratch,
                            lease=lease, arguments=self._arguments, platform=self._target,
                            escape=self._dockerfile.escape, found=found, surveyed=surveyed,
                            sources=[*images, *sources], only=images if self._images_only else None)
                state = await self._stages(site)
                if not state.image_id:
                    raise NothingBuilt
                channel = self._transcript.channel()
                if self._options.squash:
                    state = await squashed(site, site.bases[self._plan.stages[-1].number], state)
                await deliver(Outcome(state, site, channel))
                channel.close()
        finally:
            self._transcript.drain()
        self._finish(state)
        return state.image_id

    @asynccontextmanager
    async def _surveying(self) -> AsyncIterator[Surveyed]:
        task = asyncio.create_task(self._survey())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _survey(self) -> dict[bytes, list[Found]]:
        """One look at the context for the steps of all stages: a worker each would take longer."""
        context = self._context
        steps = [step for stage in self._plan.stages for step in stage.steps
                 if isinstance(step, Add) or (isinstance(step, Copy) and not step.source_stage)]
        if context.fd is None:
            return {}
        tree = Tree(fd=context.fd, implicit=context.implicit, ignore=context.ignore)
        try:
            return await self._parts.files.look(tree, steps)
        except BarqueError:
            return {}  # the step that it is about says so

    @property
    def _images_only(self) -> bool:
        """As docker's builder has it: where images alone are named, only their steps count as built before."""
        named = self._options.cache_from
        return bool(named) and not any("=" in name for name in named)

    async def _cache_images(self, lease: Lease) -> list[CacheImage]:
        """The images of ``--cache-from`` that are here; docker does not mind those that are not."""
        names = [name for name in self._options.cache_from if "=" not in name]
        found = [await self._parts.images.local(name, lease) for name in names]
        return [CacheImage(image) for image in found if image is not None]

    async def _stages(self, site: Site) -> State:
        total = self._plan.total_steps
        self._transcript.tell(BuildBegun(self._id, total, tuple(map(_name, self._plan.stages)), time.time_ns()))
        intro = self._transcript.channel(total)
        for line in self._dockerfile.source.empty_continuations:
            intro.warning(f"[WARNING]: Empty continuation line found at line {line}\n")
        for step in self._dockerfile.arguments:
            intro.begin(step)
            intro.end()
        intro.close()
        following = len(self._dockerfile.arguments) + 1
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                for stage in self._plan.stages:
                    site.results[stage.number] = loop.create_future()
                    channel = self._transcript.channel(total, _name(stage), following)
                    group.create_task(self._stage(site, stage, StageBuild(site, stage, channel)))
                    following += 1 + len(stage.steps)
        except* (BarqueError, OSError) as errors:
            raise _first(errors) from None
        return site.results[self._plan.stages[-1].number].result()

    @staticmethod
    async def _stage(site: Site, stage: PlannedStage, work: StageBuild) -> None:
        for number in sorted(stage.needs):
            await site.results[number]
        site.results[stage.number].set_result(await work.run())

    def _finish(self, state: State) -> None:
        closing: Channel = self._transcript.channel()
        unused = self._arguments.unused()
        if unused:
            closing.text(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n")
        closing.text(f"Successfully built {Digest(state.image_id).hex[:12]}\n")
        for tag in self._options.tags:
            closing.text(f"Successfully tagged {tag.with_default_tag().familiar}\n")
        self._transcript.drain()
        if self._options.quiet:
            self._transcript.say(f"{state.image_id}\n")


def _name(stage: PlannedStage) -> str:
    return stage.start.name or str(stage.number)


def _label(stage: PlannedStage, key: str, value: str) -> Label:
    quoted = "'" + value.replace("'", "'\\''") + "'"
    return Label(text=f"LABEL {key}={value}", keyword="LABEL", line=stage.start.line, last_line=stage.start.line,
                 pairs=(Pair(key, quoted),))


def _first(errors: BaseExceptionGroup[BarqueError | OSError]) -> BarqueError | OSError:
    """The failure that ended the build: others may have come of it."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, BarqueError | OSError)
    return error
