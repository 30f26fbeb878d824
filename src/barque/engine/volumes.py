"""Local volumes, named and anonymous: ``volumes/<name>/_data`` and a document for each.

A directory without a document is never deleted on its own: it may be what is left of somebody's data. Creating a volume
of its name takes it over, as docker does.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Protocol

import msgspec

from barque.engine import filters
from barque.engine.filters import Filters
from barque.engine.volume_mounts import unmount
from barque.errors import Conflict, InvalidArgument, NotFound
from barque.failpoints import hit
from barque.oci.mount import Mount
from barque.store.db import Database, Documents
from barque.store.layout import Layout
from barque.store.locks import KeyedLocks
from barque.store.threads import to_the_end, uncut
from barque.store.tree import disk_usage, remove_tree
from barque.store.workers import Workers, copy_up
from barque.sys.fsync import fsync_dir, syncfs

ANONYMOUS = "com.docker.volume.anonymous"
LIST_FILTERS = frozenset({"name", "label", "driver", "dangling"})
PRUNE_FILTERS = frozenset({"label", "label!", "all"})

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z", re.ASCII)
_NAME_LIMIT = 255  # of a file name
#: Where a removed volume waits for its deletion and a new one is filled; no volume can have such a name.
_TRANSIENT = ".transient-"
#: Each option of the local driver, and those that it makes no sense without.
_OPTIONS: dict[str, tuple[str, ...]] = {"type": ("device",), "device": ("type",), "o": ("device", "type"), "size": ()}


class NoSuchVolume(NotFound):
    text = "get {name}: no such volume"


class VolumeInUse(Conflict):
    text = "{action} {name}: volume is in use - [{users}]"


class NameConflict(Conflict):
    text = "create {name}: conflict: volume name must be unique"


class NoSuchDriver(NotFound):
    text = 'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found'


class Volume(msgspec.Struct, frozen=True, rename="pascal"):
    """A volume in docker's JSON, which is also what the database keeps."""

    created_at: str  # RFC 3339
    driver: str
    labels: dict[str, str] | None
    mountpoint: str
    name: str
    options: dict[str, str] | None
    scope: str = "local"

    @property
    def anonymous(self) -> bool:
        return ANONYMOUS in (self.labels or {})

    @property
    def backing(self) -> Mount | None:
        """What must be mounted at ``mountpoint`` as long as any container uses the volume; None: the directory is it.

        Made of the options of the local driver, as mount(8) would be told them.
        """
        options = self.options or {}
        if "device" not in options:
            return None
        words = tuple(word for word in options.get("o", "").split(",") if word)
        return Mount(type=options["type"], source=options["device"], target=self.mountpoint, options=words)


class VolumeUsers(Protocol):
    """Who uses a volume: answered by whoever knows the containers."""

    def users_of(self, name: str) -> Sequence[str]:
        """Ids of the containers, running or not, that have the volume ``name``."""


class Emit(Protocol):
    def __call__(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str], /) -> None: ...


class Volumes:
    def __init__(self, layout: Layout, db: Database, workers: Workers, users: VolumeUsers, emit: Emit) -> None:
        self._root = layout.volumes
        self._documents = Documents(db, "volumes", Volume)
        self._workers = workers
        self._users = users
        self._emit = emit
        self._locks = KeyedLocks()

    async def ensure(self, name: str | None, *, driver: str = "local", options: Mapping[str, str] | None = None,
                     labels: Mapping[str, str] | None = None) -> Volume:
        """The volume ``name``, made if there is none; without a name a fresh anonymous one.

        Raises InvalidArgument, :class:`NoSuchDriver`, :class:`NameConflict`, OSError.
        """
        if not name:
            name = secrets.token_hex(32)
            labels = {**(labels or {}), ANONYMOUS: ""}
        check_name(name)
        if driver not in ("", "local"):
            existing = await self._documents.get(name)
            raise NameConflict(name=name) if existing else NoSuchDriver(name=name, driver=driver)
        _check_options(name, options or {})
        await self._locks.acquire(name)
        try:
            found = await self._documents.get(name)
            if found is not None:
                return found
            volume = self._volume(name, labels, options)
            await to_the_end(self._make_directories, volume.mountpoint)
            hit("volume.create.before-row")
            await self._documents.put(name, name, volume)
        finally:
            self._locks.release(name)
        self._emit("volume", "create", name, {"driver": "local"})
        return volume

    def _volume(self, name: str, labels: Mapping[str, str] | None, options: Mapping[str, str] | None) -> Volume:
        return Volume(
            created_at=datetime.now().astimezone().isoformat(timespec="seconds").replace("+00:00", "Z"),
            driver="local", labels=None if labels is None else dict(labels),
            mountpoint=os.path.join(self._root, name, "_data"), name=name,
            options=None if options is None else dict(options))

    def _make_directories(self, content: str) -> None:
        directory = os.path.dirname(content)
        for path, mode in ((directory, 0o710), (content, 0o755)):
            try:
                os.mkdir(path, mode)
            except FileExistsError:
                continue
            os.chmod(path, mode)  # whatever the umask
        fsync_dir(directory)
        fsync_dir(self._root)

    async def make(self, name: str, labels: Mapping[str, str] | None,
                   fill: Callable[[str], Awaitable[object]]) -> Volume:
        """A new volume with what ``fill`` has put into the directory that it was given; nothing stays where it raises.

        Raises InvalidArgument, :class:`NameConflict`, OSError.
        """
        check_name(name)
        staged = _TRANSIENT + secrets.token_hex(8)
        volume = self._volume(name, labels, None)
        await self._locks.acquire(name)
        try:
            if await self._documents.get(name) is not None or os.path.lexists(os.path.dirname(volume.mountpoint)):
                raise NameConflict(name=name)
            content = os.path.join(self._root, staged, "_data")
            try:
                await to_the_end(self._make_directories, content)
                await fill(content)
                await to_the_end(self._reveal, staged, name)
            except BaseException:
                await to_the_end(self._delete, staged)
                raise
            hit("volume.make.before-row")
            await self._documents.put(name, name, volume)
        finally:
            self._locks.release(name)
        self._emit("volume", "create", name, {"driver": "local"})
        return volume

    def _reveal(self, staged: str, name: str) -> None:
        syncfs(self._root)
        os.rename(os.path.join(self._root, staged), os.path.join(self._root, name))
        fsync_dir(self._root)

    async def rename(self, name: str, new: str) -> Volume:
        """Give a volume that no container has another name. One without a name of somebody's choice has one then.

        Raises InvalidArgument, :class:`NoSuchVolume`, :class:`VolumeInUse`, :class:`NameConflict`.
        """
        check_name(new)
        async with AsyncExitStack() as locks:
            for key in sorted({name, new}):
                await self._locks.acquire(key)
                locks.callback(self._locks.release, key)
            volume = await self.get(name)
            users = self._users.users_of(name)
            if users:
                raise VolumeInUse(action="rename", name=name, users=", ".join(users))
            if await self._documents.get(new) is not None or os.path.lexists(os.path.join(self._root, new)):
                raise NameConflict(name=new)
            volume = msgspec.structs.replace(volume, name=new, labels=named(volume.labels))
            volume = await uncut(self._move(name, volume))
        self._emit("volume", "rename", new, {"driver": "local", "oldName": name})
        return volume

    async def _move(self, old: str, volume: Volume) -> Volume:
        await self._documents.put(volume.name, volume.name, volume, instead_of=old)
        hit("volume.rename.after-row")
        return await self._settle(volume)

    async def _settle(self, volume: Volume) -> Volume:
        """Let the directory of a volume that was renamed have the new name, too."""
        path = os.path.join(self._root, volume.name, "_data")
        if path == volume.mountpoint:
            return volume
        await to_the_end(self._rename_directory, os.path.dirname(volume.mountpoint), os.path.dirname(path))
        hit("volume.rename.moved")
        volume = msgspec.structs.replace(volume, mountpoint=path)
        await self._documents.put(volume.name, volume.name, volume)
        return volume

    def _rename_directory(self, old: str, new: str) -> None:
        if os.path.lexists(old):  # else a daemon died just after this
            os.rename(old, new)
            fsync_dir(self._root)

    async def get(self, name: str) -> Volume:
        """Raises :class:`NoSuchVolume`."""
        volume = await self._documents.get(name)
        if volume is None:
            raise NoSuchVolume(name=name)
        return volume

    async def list(self, wanted: Filters) -> list[Volume]:
        """Volumes that match ``wanted`` (keys: :data:`LIST_FILTERS`), ordered by name."""
        dangling = filters.flag(wanted, "dangling")
        found = []
        for _, volume in await self._documents.all():
            if ((dangling is None or dangling == (not self._users.users_of(volume.name)))
                    and _match(volume, wanted)):
                found.append(volume)
        return found

    async def remove(self, name: str, force: bool = False) -> None:
        """Delete the volume and its data. With ``force`` a missing one is fine; one in use never is.

        Raises :class:`NoSuchVolume`, :class:`VolumeInUse`.
        """
        await self._locks.acquire(name)
        try:
            volume = await self._documents.get(name)
            if volume is None:
                if force:
                    return
                raise NoSuchVolume(name=name)
            users = self._users.users_of(name)
            if users:
                raise VolumeInUse(action="remove", name=name, users=", ".join(users))
            await uncut(self._forget(name))
        finally:
            self._locks.release(name)
        self._emit("volume", "destroy", name, {"driver": "local"})

    async def _forget(self, name: str) -> None:
        await self._documents.delete(name)
        hit("volume.remove.after-row")
        await asyncio.to_thread(self._delete, name)

    def _delete(self, name: str) -> None:
        unmount(os.path.join(self._root, name, "_data"))  # or the deletion would reach what is mounted there
        waiting = _TRANSIENT + secrets.token_hex(8)
        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                os.rename(name, waiting, src_dir_fd=root, dst_dir_fd=root)
            except FileNotFoundError:
                return
            remove_tree(root, waiting)
        finally:
            os.close(root)

    async def prune(self, wanted: Filters, everything: bool) -> tuple[builtins.list[str], int]:
        """Remove what no container uses; of named volumes only with ``everything`` (or the filter ``all``).

        Returns the names and the bytes that they had.
        """
        everything = everything or bool(filters.flag(wanted, "all"))
        removed, reclaimed = [], 0
        for _, volume in await self._documents.all():
            if not (everything or volume.anonymous) or not _match(volume, wanted):
                continue
            if self._users.users_of(volume.name):
                continue
            size = await self.size(volume.name)
            try:
                await self.remove(volume.name)
            except (NoSuchVolume, VolumeInUse):
                continue  # gone or taken meanwhile
            removed.append(volume.name)
            reclaimed += size
        self._emit("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return removed, reclaimed

    async def size(self, name: str) -> int:
        """Bytes of file contents; walks the volume. What the options name is not on this engine's disk: 0."""
        volume = await self.get(name)
        if volume.backing is not None:
            return 0

        def measure() -> int:
            fd = os.open(volume.mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return disk_usage(fd)
            finally:
                os.close(fd)

        return await asyncio.to_thread(measure)

    async def copy_up(self, name: str, image_mount: Mount, path: str) -> None:
        """Fill an empty volume with what the image (a read-only overlay Mount) has at ``path``.

        Nothing happens to a volume with content, with a backing mount, or where the image has no such directory.
        """
        volume = await self.get(name)
        # Asked here too, since each start of a container asks, and a worker costs more than a look.
        if volume.backing is None and not await asyncio.to_thread(os.listdir, volume.mountpoint):
            await copy_up(self._workers, image_mount.lower, path, volume.mountpoint)

    async def clean(self) -> None:
        """At boot: finish removals and renamings that were cut short."""
        def finish() -> None:
            root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for name in os.listdir(root):
                    if name.startswith(_TRANSIENT):
                        remove_tree(root, name)
            finally:
                os.close(root)

        await to_the_end(finish)
        for _, volume in await self._documents.all():
            await self._settle(volume)


def named(labels: Mapping[str, str] | None) -> dict[str, str] | None:
    """The labels without what marks a volume whose name nobody chose."""
    return None if labels is None else {key: value for key, value in labels.items() if key != ANONYMOUS}


def check_name(name: str) -> None:
    """Raises InvalidArgument in docker's words."""
    if len(name) == 1:
        raise InvalidArgument(f"create {name}: volume name is too short, names should be at least two alphanumeric "
                              "characters")
    if not _NAME.match(name):
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path')
    if len(name) > _NAME_LIMIT:
        raise InvalidArgument(f"create {name}: volume name is too long, at most {_NAME_LIMIT} characters are allowed")


def _check_options(name: str, options: Mapping[str, str]) -> None:
    for key in options:
        if key not in _OPTIONS:
            raise InvalidArgument(f'create {name}: invalid option: "{key}"')
        for needed in _OPTIONS[key]:
            if needed not in options:
                raise InvalidArgument(f'create {name}: missing required option: "{needed}"')
    if "size" in options:
        raise InvalidArgument(f"create {name}: quota size requested but no quota support")


def _match(volume: Volume, wanted: Filters) -> bool:
    names = wanted.get("name")
    return ((not names or any(name in volume.name for name in names))
            and ("driver" not in wanted or volume.driver in wanted["driver"])
            and filters.match_labels(wanted.get("label", []), volume.labels)
            and not any(filters.match_labels([label], volume.labels) for label in wanted.get("label!", [])))
