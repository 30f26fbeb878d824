"""What is mounted into a container: ``-v``, ``--mount``, ``--tmpfs``, ``--volumes-from`` and the image's volumes, as
values.

Pure: sources are not looked at here. Later entries never silently win: two that were asked for at one destination are
an error, and what the image or another container brings gives way.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

import msgspec

from barque.engine.containers.model import MountPoint
from barque.engine.containers.options import BindOptions, ContainerConfig, HostConfig, MountSpec
from barque.errors import InvalidArgument
from barque.runtime.options import parse

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z", re.ASCII)
_PROPAGATION = frozenset({"shared", "rshared", "slave", "rslave", "private", "rprivate"})
MATCH_USER = "match-user"
#: What tmpfs(5) takes besides the flags of every mount.
_TMPFS = frozenset({"size", "nr_blocks", "nr_inodes", "mode", "gid", "uid", "huge", "mpol"})
_IGNORED = frozenset({"z", "Z", "consistent", "cached", "delegated"})  # SELinux labels without SELinux; macOS hints


class InvalidMount(InvalidArgument):
    pass


def collect(config: ContainerConfig, host: HostConfig, inherited: Iterable[MountPoint]) -> list[MountPoint]:
    """All mount points; a volume without a name gets one when it is made. Raises InvalidArgument in dockerd's words."""
    asked = [parse_bind(text) for text in host.binds or ()] + [_from_spec(spec) for spec in host.mounts or ()]
    asked += [_from_tmpfs(path, options) for path, options in (host.tmpfs or {}).items()]
    result: dict[str, MountPoint] = {}
    for point in asked:
        if point.destination in result:
            raise InvalidMount(f"Duplicate mount point: {point.destination}")
        result[point.destination] = point
    for point in inherited:
        result.setdefault(point.destination, point)
    for path in config.volumes or ():
        destination = _destination(path, path, "volume")
        if destination not in result:
            result[destination] = MountPoint(type="volume", destination=destination, driver="local", anonymous=True,
                                             copy=True)
    return sorted(result.values(), key=lambda point: (point.destination.count("/"), point.destination))


def _destination(path: str, text: str, kind: str) -> str:
    if not path.startswith("/"):
        raise InvalidMount(f"invalid volume specification: '{text}': invalid mount config for type \"{kind}\": "
                           f"invalid mount path: '{path}' mount path must be absolute")
    clean = posixpath.normpath(path).replace("//", "/")
    if clean == "/":
        raise InvalidMount(f"invalid volume specification: '{text}': invalid mount config for type \"{kind}\": "
                           "invalid specification: destination can't be '/'")
    return clean


def parse_bind(text: str) -> MountPoint:
    """``[source:]destination[:mode,...]``: an absolute source is a path of the host, any other names a volume."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise InvalidMount(f"invalid volume specification: '{text}'")
    if len(parts) == 1:
        return MountPoint(type="volume", destination=_destination(text, text, "volume"), driver="local", anonymous=True,
                          copy=True)
    source, path = parts[:2]
    mode = parts[2] if len(parts) == 3 else ""
    modes = [item for item in mode.split(",") if item]
    is_bind = source.startswith("/")
    allowed = _PROPAGATION if is_bind else frozenset({"nocopy"})
    if any(item not in {"rw", "ro"} | _IGNORED | allowed for item in modes) or {"rw", "ro"} <= set(modes):
        raise InvalidMount(f"invalid mode: {mode}")
    if not is_bind and not _NAME.match(source):
        raise InvalidMount(f'create {source}: "{source}" includes invalid characters for a local volume name, only '
                           '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use '
                           "absolute path")
    destination = _destination(path, text, "bind" if is_bind else "volume")
    propagation = next((item for item in modes if item in _PROPAGATION), "rprivate")
    if is_bind:
        return MountPoint(type="bind", source=posixpath.normpath(source), destination=destination, mode=mode,
                          rw="ro" not in modes, propagation=propagation, create_source=True)
    return MountPoint(type="volume", name=source, destination=destination, driver="local", mode=mode or "z",
                      rw="ro" not in modes, copy="nocopy" not in modes)


def _from_spec(spec: MountSpec) -> MountPoint:
    text = f"{spec.source}:{spec.target}"
    destination = _destination(spec.target, text, spec.type)
    for kind, options in (("bind", spec.bind_options), ("volume", spec.volume_options), ("tmpfs", spec.tmpfs_options),
                          ("image", spec.image_options)):
        if options is not None and spec.type != kind:
            raise InvalidMount(f'invalid mount config for type "{spec.type}": field {kind.capitalize()}Options must '
                               "not be specified")
    if spec.type == "bind":
        return _bind_spec(spec, destination)
    if spec.type == "tmpfs":
        if spec.source:
            raise InvalidMount('invalid mount config for type "tmpfs": field Source must not be specified')
        return MountPoint(type="tmpfs", destination=destination, rw=not spec.read_only,
                          options=tuple(_tmpfs_spec(spec)))
    if spec.type == "image":
        if not spec.source:
            raise InvalidMount('invalid mount config for type "image": field Source must not be empty')
        return MountPoint(type="image", name=spec.source, destination=destination, rw=False,
                          subpath=_local(spec.image_options.subpath) if spec.image_options else "")
    volume = spec.volume_options
    if volume and volume.driver_config and volume.driver_config.name not in ("", "local"):
        raise InvalidMount(f'error looking up volume plugin {volume.driver_config.name}: plugin '
                           f'"{volume.driver_config.name}" not found')
    if spec.source and not _NAME.match(spec.source):
        raise InvalidMount(f'invalid mount config for type "volume": invalid volume name: "{spec.source}"')
    return MountPoint(type="volume", name=spec.source, destination=destination, driver="local", mode="z",
                      rw=not spec.read_only, anonymous=not spec.source, copy=not (volume and volume.no_copy),
                      subpath=_local(volume.subpath) if volume else "")


def _local(subpath: str) -> str:
    """Raises :class:`InvalidMount` for a path that would lead out, whatever is there."""
    parts = posixpath.normpath(subpath).split("/")
    if subpath.startswith("/") or parts[0] == "..":
        raise InvalidMount(f'subpath "{subpath}" must be a relative path within the volume')
    return subpath


def _bind_spec(spec: MountSpec, destination: str) -> MountPoint:
    if not spec.source.startswith("/"):
        raise InvalidMount(f"invalid mount config for type \"bind\": invalid mount path: '{spec.source}' mount path "
                           "must be absolute")
    options = spec.bind_options or BindOptions()
    if options.propagation and options.propagation not in _PROPAGATION:
        raise InvalidMount(f'invalid mount config for type "bind": invalid propagation mode: {options.propagation}')
    if options.read_only_non_recursive and options.read_only_force_recursive:
        raise InvalidMount('invalid mount config for type "bind": mount options conflict: ReadOnlyNonRecursive && '
                           "ReadOnlyForceRecursive")
    for name, asked in (("NonRecursive", options.read_only_non_recursive),
                        ("ForceRecursive", options.read_only_force_recursive)):
        if asked and not spec.read_only:
            raise InvalidMount(f'invalid mount config for type "bind": ReadOnly{name} requires ReadOnly')
    if options.id_map not in ("", MATCH_USER):
        raise InvalidMount(f'invalid mount config for type "bind": invalid id mapping: {options.id_map} (must be '
                           f'"{MATCH_USER}")')
    return MountPoint(type="bind", source=posixpath.normpath(spec.source), destination=destination,
                      rw=not spec.read_only, propagation=options.propagation or "rprivate",
                      recursive=not options.non_recursive, create_source=options.create_mountpoint,
                      deep_ro=not options.read_only_non_recursive, match_user=options.id_map == MATCH_USER)


def _tmpfs_spec(spec: MountSpec) -> Iterable[str]:
    options = spec.tmpfs_options
    if options is None:
        return
    if options.size_bytes < 0:
        raise InvalidMount('invalid mount config for type "tmpfs": size of tmpfs mount cannot be negative')
    if options.size_bytes:
        yield f"size={options.size_bytes}"
    if options.mode:
        yield f"mode={options.mode:o}"
    for pair in options.options or ():
        yield "=".join(pair)


def _from_tmpfs(path: str, options: str) -> MountPoint:
    if not path.startswith("/"):
        raise InvalidMount(f"invalid mount path: '{path}' mount path must be absolute")
    destination = _destination(path, path, "tmpfs")
    items = tuple(item for item in options.split(",") if item)
    try:
        told = parse(items).data
    except ValueError as error:
        raise InvalidMount(f"invalid tmpfs option: {error}") from None
    for key, value in told:
        if key not in _TMPFS:
            raise InvalidMount("invalid tmpfs option [" + " ".join(f'"{word}"' for word in (key, value) if word) + "]")
    return MountPoint(type="tmpfs", destination=destination, mode=options, rw="ro" not in items, options=items)


def inherit(points: Iterable[MountPoint], mode: str) -> list[MountPoint]:
    """What ``--volumes-from`` takes over: binds, volumes and images, read-only where ``mode`` says so."""
    if mode not in ("", "rw", "ro", "z", "Z"):
        raise InvalidMount(f"invalid mode: {mode}")
    return [msgspec.structs.replace(point, rw=point.rw and mode != "ro", anonymous=False, copy=False)
            for point in points if point.type != "tmpfs"]
