"""COPY, ADD and WORKDIR: what their sources are, and the layer that they make."""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from barque.build.dockerfile.instructions import Add, Copy, InlineFile
from barque.build.layers import Layer, LayerStore
from barque.build.ports import Workers
from barque.build.state import State
from barque.build.steps.owners import Owner, resolve
from barque.errors import Internal, InvalidArgument
from barque.oci.patterns import BadPattern, Patterns, has_wildcards
from barque.store.leases import Lease
from barque.store.place import modes
from barque.store.place.messages import (
    Found,
    Pick,
    PlaceRequest,
    PlaceResult,
    Put,
    Source,
    SurveyRequest,
    SurveyResult,
)
from barque.store.tar.messages import decode, encode

#: Digests of clients' files that are kept, at some 300 bytes each.
_MAX_DIGESTS = 4096
#: A survey of so many sources at once is worth more than it costs.
_WORTH_IT = 2


class CopyFailed(InvalidArgument):
    text = "{name} failed: {reason}"


class PlaceFailed(Internal):
    text = "failed to copy files: {reason}"


@dataclass
class Tree:
    """Something to copy from: a directory by descriptor, or the layers of an image, topmost first.

    ``ignore``: the patterns of ``.dockerignore`` for a client's own directory, None for one of the builder's.
    ``surveyed``: what a look at the whole build has found in it.
    """

    fd: int = -1
    lower: Sequence[str] = ()
    from_image: bool = False
    implicit: Sequence[bytes] = ()
    ignore: Sequence[str] | None = None
    surveyed: Surveyed | None = None

    def source(self, number: int) -> Source:
        if self.fd >= 0:
            return Source(fd=number, implicit=list(self.implicit),
                          ignore=None if self.ignore is None else list(self.ignore))
        return Source(lower=list(self.lower), named=True)


#: What sources stand for, by how they were asked for; those that are not there are missing here too.
Surveyed = asyncio.Future[dict[bytes, list[Found]]]


@dataclass
class Fetched:
    """A file that was made or downloaded for this step: it is called ``name`` in the directory ``fd``."""

    fd: int
    name: str
    unpack: bool = False
    directory: bool = False


@dataclass
class Selection:
    """The sources of one step, looked at: ``digest`` is docker's name for all of them together."""

    trees: list[Tree]
    picks: list[Pick]
    found: list[list[Found]]
    unpackable: list[bool] = field(default_factory=list)

    @property
    def digest(self) -> str:
        digests = [item.digest for items in self.found for item in items]
        if len(digests) == 1:
            return digests[0]
        return "multi:" + hashlib.sha256(",".join(digests).encode()).hexdigest()

    @property
    def count(self) -> int:
        return sum(map(len, self.found))

    def parts(self) -> dict[str, str]:
        """The digest of each source, by a name for people."""
        return {f"{os.fsdecode(item.name) or '.'}": item.digest for items in self.found for item in items}


class FileSteps:
    def __init__(self, workers: Workers, layers: LayerStore) -> None:
        self._workers = workers
        self._layers = layers
        self._digests: dict[str, str] = {}

    async def select(self, step: Copy | Add, tree: Tree | None, fetched: Sequence[Fetched]) -> Selection:
        """Look at the sources in ``tree`` and at what was fetched. Raises :class:`CopyFailed` in docker's words."""
        name = type(step).__name__.upper()
        trees: list[Tree] = []
        picks: list[Pick] = []
        unpackable: list[bool] = []
        _check(step, name)
        local = [source for source in step.sources if not _is_remote(source)] if isinstance(step, Add) \
            else list(step.sources)
        if local:
            if tree is None:
                raise CopyFailed(name=name, reason="missing build context")
            trees.append(tree)
            if not tree.from_image:
                _check_inside(local, name)
            picks += _picks(step, local)
            unpackable += [isinstance(step, Add) and step.unpack is not False] * len(local)
        for item in fetched:
            trees.append(Tree(fd=item.fd))
            picks.append(Pick(len(trees) - 1, "." if item.directory else item.name))
            unpackable.append(item.unpack)
        found = await _known(tree, picks) if tree is not None and not fetched else None
        selection = Selection(trees, picks, found or await self._survey(trees, picks, name), unpackable)
        if not selection.count and not (isinstance(step, Copy) and step.if_exists):
            raise CopyFailed(name=name, reason="no source files were specified")
        if selection.count > 1 and not step.destination.endswith("/"):
            raise InvalidArgument(f"When using {name} with more than one source file, the destination must be a "
                                  "directory and end with a /")
        return selection

    async def look(self, tree: Tree, steps: Sequence[Copy | Add]) -> dict[bytes, list[Found]]:
        """What the sources of ``steps`` are in ``tree``, in one go; what has variables in it is left for later."""
        picks = [pick for step in steps for pick in _picks(step, [source for source in step.sources
                                                                  if not _is_remote(source)])]
        plain = {encode(pick): replace(pick, optional=True) for pick in picks
                 if "$" not in pick.pattern + "".join(pick.exclude)}
        if len(plain) < _WORTH_IT:
            return {}
        found = await self._survey([tree], list(plain.values()), "COPY")
        return {key: items for key, items in zip(plain, found, strict=True) if items}

    async def _survey(self, trees: Sequence[Tree], picks: list[Pick], name: str) -> list[list[Found]]:
        fds = [tree.fd for tree in trees if tree.fd >= 0]
        direct = any(tree.ignore is not None for tree in trees)
        request = SurveyRequest(_sources(trees), picks, self._digests if direct else {})
        result = decode(await self._workers.run("survey", encode(request), fds), SurveyResult)
        if result.error is None:
            self._remember(result.known)
            return result.found
        message = result.error.message
        if result.error.errno == 2:
            missing = message.partition(":")[0]
            reason = f"stat {posixpath.normpath(missing).lstrip('/')}: file does not exist"
            if trees and not trees[0].from_image:
                reason = f"file not found in build context or excluded by .dockerignore: {reason}"
            raise CopyFailed(name=name, reason=reason)
        raise CopyFailed(name=name, reason=message)

    def _remember(self, digests: dict[str, str]) -> None:
        """The newest digests of clients' large files."""
        self._digests |= digests
        for key in list(self._digests)[:max(0, len(self._digests) - _MAX_DIGESTS)]:
            del self._digests[key]

    async def place(self, lease: Lease, state: State, step: Copy | Add, selection: Selection, owner: Owner,
                    epoch: int) -> Layer | None:
        """The layer of a COPY or ADD over ``state``. Raises :class:`PlaceFailed`, InvalidArgument."""
        lower = [] if step.link else await self._layers.snapshots.image_lower(state.chain_id)
        destination = posixpath.join("/", state.config.working_dir or "/", step.destination)
        puts = [_put(step, pick, item, destination, owner, unpack)
                for pick, items, unpack in zip(selection.picks, selection.found, selection.unpackable, strict=True)
                for item in items]
        fds = [tree.fd for tree in selection.trees if tree.fd >= 0]
        return await self._make(lease, state, lower, fds, epoch,
                                lambda upper, work: PlaceRequest(lower, upper, work, _sources(selection.trees), puts,
                                                                 uid=owner.uid, gid=owner.gid, epoch=epoch))

    async def make_directory(self, lease: Lease, state: State, path: str, epoch: int) -> Layer | None:
        """The layer of a WORKDIR: the directory and its parents where they are missing."""
        lower = await self._layers.snapshots.image_lower(state.chain_id)
        return await self._make(lease, state, lower, [], epoch, lambda upper, work: PlaceRequest(
            lower, upper, work, directories=[os.fsencode(path)], epoch=epoch))

    async def _make(self, lease: Lease, state: State, lower: list[str], fds: list[int], epoch: int,
                    request: Callable[[str, str], PlaceRequest]) -> Layer | None:
        snapshots = self._layers.snapshots
        layer_id = f"build-{secrets.token_hex(16)}"
        mount = await snapshots.create_container(lease, layer_id, state.chain_id)
        try:
            # An image of no layers, or a linked copy, still needs a directory below the writable one.
            lower.extend(mount.lower[-1:] if not lower and state.chain_id is None else ())
            if not lower:
                lower.append(os.path.join(snapshots.root, "empty"))
            order = request(mount.upper, mount.work)
            result = decode(await self._workers.run("place", encode(order), fds), PlaceResult)
            if result.error is not None:
                if result.error.kind == "invalid":
                    raise InvalidArgument(result.error.message)
                raise PlaceFailed(reason=result.error.message)
            return await self._layers.seal(lease, layer_id, state.chain_id, epoch)
        finally:
            await asyncio.shield(snapshots.remove_container(layer_id))

    async def owner(self, step: Copy | Add, selection: Selection, state: State) -> Owner:
        """Whose the files become. Raises UnknownOwner."""
        if step.chown:
            return await asyncio.to_thread(
                resolve, await self._layers.snapshots.image_lower(state.chain_id), step.chown)
        kept = any(tree.from_image for tree in selection.trees)
        return Owner(-1, -1) if kept else Owner(0, 0)


def _picks(step: Copy | Add, sources: Sequence[str]) -> list[Pick]:
    parents, optional = (step.parents, step.if_exists) if isinstance(step, Copy) else (False, False)
    return [Pick(0, source, has_wildcards(source), parents, optional, list(step.exclude)) for source in sources]


async def _known(tree: Tree, picks: Sequence[Pick]) -> list[list[Found]] | None:
    """What is known of all of ``picks``, None where that is not all there is to know."""
    surveyed = await asyncio.shield(tree.surveyed) if tree.surveyed is not None else {}
    found = [surveyed.get(encode(pick)) for pick in picks]
    return [items for items in found if items is not None] if all(found) else None


def _check(step: Copy | Add, name: str) -> None:
    try:
        Patterns(step.exclude)
        if step.chmod:
            modes.check(step.chmod)
    except BadPattern as error:
        raise CopyFailed(name=name, reason=str(error)) from None
    except modes.BadMode as error:
        raise InvalidArgument(str(error)) from None
    if isinstance(step, Copy) and any(_is_remote(source) for source in step.sources):
        raise CopyFailed(name=name, reason="source can't be a URL for COPY")


def _check_inside(sources: Sequence[str], name: str) -> None:
    for source in sources:
        if posixpath.normpath(source.lstrip("/") or ".").split("/")[0] == "..":
            raise CopyFailed(name=name, reason=f"forbidden path outside the build context: {source} ()")


def _is_remote(source: str) -> bool:
    return is_http(source) or is_git(source)


def is_http(source: str) -> bool:
    return source.startswith(("http://", "https://")) and not is_git(source)


def is_git(source: str) -> bool:
    """As docker tells a Git source: by scheme, by ``git@``, or by ``.git`` at the end of an address's path."""
    if source.startswith(("git://", "git@", "ssh://")):
        return True
    return source.startswith(("http://", "https://", "github.com/")) and (
        source.partition("#")[0].endswith(".git") or source.startswith("github.com/"))


def _sources(trees: Sequence[Tree]) -> list[Source]:
    found, number = [], 0
    for tree in trees:
        found.append(tree.source(number))
        number += tree.fd >= 0
    return found


def _put(step: Copy | Add, pick: Pick, item: Found, destination: str, owner: Owner, unpack: bool) -> Put:
    under = b""
    if pick.parents:
        _, pivot, rest = os.fsencode(pick.pattern).partition(b"/./")
        before = len(posixpath.normpath(b"/" + os.fsencode(pick.pattern).partition(b"/./")[0]).lstrip(b"/")) + 1
        under = item.name[before:] if pivot and rest else item.name
        destination = destination.rstrip("/") + "/"
    must = isinstance(step, Add) and step.unpack is True
    archived = owner if step.chown else Owner(-1, -1)
    return Put(pick.source, item.path, item.name, os.fsencode(destination), owner.uid, owner.gid, step.chmod,
               unpack and not item.directory, must, under, pick.exclude, archived.uid, archived.gid, item.stamp)


def write_inline(files: Sequence[InlineFile], directory: str) -> list[Fetched]:
    """The here-documents as files below ``directory``, each in one of its own; the caller closes the descriptors."""
    found = []
    for number, file in enumerate(files):
        path = os.path.join(directory, f"inline{number}-{secrets.token_hex(8)}")
        os.mkdir(path, 0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        name = posixpath.basename(file.heredoc.name)
        out = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=fd)
        with open(out, "wb") as stream:
            stream.write(file.content.encode())
        os.utime(name, (0, 0), dir_fd=fd)
        os.chmod(name, 0o644, dir_fd=fd)
        found.append(Fetched(fd, name))
    return found
