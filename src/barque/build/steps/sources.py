"""Where the files of COPY and ADD come from: the context, other stages, images, addresses, the Dockerfile itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from barque.build.dockerfile import instructions as i
from barque.build.parts import Site
from barque.build.plan import Origin, PlannedStage
from barque.build.remote import parse_git
from barque.build.state import State
from barque.build.steps.files import Fetched, Tree, is_git, is_http, write_inline
from barque.errors import InvalidArgument
from barque.sys.beneath import open_in_root

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Sources:
    """Those of one stage; ``image`` finds or pulls an image by its name."""

    def __init__(self, site: Site, stage: PlannedStage, image: Callable[[str], Awaitable[State]]) -> None:
        self._site = site
        self._stage = stage
        self._image = image

    async def tree(self, name: str) -> Tree | None:
        """What ``--from`` names; "" is the build context, None where there is none."""
        if not name:
            context = self._site.context
            if context.fd is None:
                return None
            return Tree(fd=context.fd, implicit=context.implicit, ignore=context.ignore,
                        surveyed=self._site.surveyed)
        origin = self._stage.sources.get(name) or Origin(image=name)
        if origin.stage is not None:
            state = await self._site.results[origin.stage]
        else:
            state = await self._image(origin.image)
        snapshots = self._site.parts.layers.snapshots
        lower = await snapshots.image_lower(state.chain_id)
        empty = os.path.join(snapshots.root, "empty")
        return Tree(lower=[*lower, empty] if len(lower) < 2 else lower, from_image=True)

    async def fetch(self, step: i.Copy | i.Add, stack: AsyncExitStack) -> list[Fetched]:
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
