"""From the OCI document to the list of steps, in order, before anything is done: it can be printed and tested."""

from __future__ import annotations

import os

import msgspec

from barque.oci import mount as oci
from barque.oci import runtime_spec as spec_types
from barque.runtime import devices, links, mounts, rootfs, sysctls, targets
from barque.runtime.cgroups.base import UNIFIED, CgroupManager, InvalidResources, Layout
from barque.runtime.options import parse, propagation
from barque.runtime.step import ChildStep, Context, Step
from barque.sys import namespaces

#: The kernel labels their files itself; those of a mqueue can be told afterwards.
_UNLABELLED = ("proc", "sysfs", "mqueue")


class JoinCgroupNamespace(ChildStep):
    """The namespace shows as ``/`` whatever cgroup its maker is in: so not before the caller has put us there."""

    def __init__(self, fresh: bool) -> None:
        self.fresh = fresh

    def describe(self) -> str:
        return "join the cgroup"

    def execute(self, context: Context) -> None:
        context.channel.wait_go()
        if self.fresh:
            namespaces.unshare(namespaces.CLONE_NEWCGROUP)


class MakeCwd(ChildStep):
    """Make the working directory where it is missing, as runc and docker do, before the root becomes read-only."""

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"make working directory {self.path}"

    def execute(self, context: Context) -> None:
        os.close(targets.ensure_directory(context.root, self.path))


def build(spec: spec_types.Spec, root_path: str, roots: tuple[oci.Mount, ...], cgroup: CgroupManager,
          layout: Layout, *, make_cwd: bool, no_pivot: bool = False) -> tuple[list[Step], list[Step]]:
    """(steps with the host's root still there, steps that leave it) for a validated ``spec``."""
    linux = spec.linux or spec_types.Linux()
    kinds = {item.type: item.path for item in linux.namespaces}
    outer = propagation(linux.rootfs_propagation) if linux.rootfs_propagation else None
    roots = tuple(_labelled(mount, linux.mount_label) for mount in roots)
    at_root = [mount for mount in roots if not mount.target]
    own = kinds.get("mount") == ""
    steps: list[Step] = [rootfs.DetachFromHost(outer)] if own else []
    if kinds.get("network") == "":
        steps.append(links.BringUpLoopback())
    if kinds.get("mount"):
        steps.append(rootfs.JoinMounts(kinds["mount"]))
    steps.append(rootfs.MountRoot(at_root[0] if at_root else None, root_path))
    steps += [rootfs.MountInRoot(mount) for mount in roots if mount.target]
    steps.append(JoinCgroupNamespace(fresh=kinds.get("cgroup") == ""))
    steps += [_mount(mount, cgroup, layout, "cgroup" in kinds, linux.mount_label) for mount in spec.mounts]
    steps += _dev(spec, linux)
    if make_cwd and spec.process is not None:
        steps.append(MakeCwd(spec.process.cwd))
    if linux.sysctl:
        steps.append(sysctls.WriteSysctls(linux.sysctl))
    if linux.readonly_paths:
        steps.append(mounts.ReadonlyPaths(linux.readonly_paths))
    if linux.masked_paths:
        steps.append(mounts.MaskPaths(linux.masked_paths, linux.mount_label))
    if spec.root is not None and spec.root.readonly:
        steps.append(rootfs.ReadonlyRoot())
    if not own:
        return steps, [rootfs.ChangeRoot()]
    return steps, [rootfs.MoveRoot() if no_pivot else rootfs.Pivot(outer)]


def _dev(spec: spec_types.Spec, linux: spec_types.Linux) -> list[Step]:
    """Nodes and links, unless the document shows a /dev of the host's, which is not ours to write to."""
    bound = any(os.path.normpath(mount.destination) == "/dev" and (mount.type == "bind" or parse(mount.options).bind)
                for mount in spec.mounts)
    steps: list[Step] = []
    if not bound:
        named = {device.path for device in linux.devices}
        wanted = [device for device in devices.DEFAULTS if device.path not in named] + linux.devices
        steps += [devices.MakeDevices(wanted), devices.MakeLinks()]
    if spec.process is not None and spec.process.terminal:
        steps.append(devices.MakeConsole())
    return steps


def _labelled(mount: oci.Mount, label: str) -> oci.Mount:
    """A bind shows files that have labels of their own."""
    if not label or mount.type == "bind":
        return mount
    return msgspec.structs.replace(mount, options=(*mount.options, f"context={label}"))


def _mount(mount: spec_types.Mount, cgroup: CgroupManager, layout: Layout, own_view: bool, label: str) -> Step:
    options = parse(mount.options)
    if mount.type in ("cgroup", "cgroup2"):
        return _cgroups(mount, cgroup, layout, own_view, label)
    if mount.type == "bind" or options.bind:
        return mounts.Bind(mount.source, mount.destination, options, mount.uid_mappings, mount.gid_mappings)
    if mount.type not in _UNLABELLED:
        options = msgspec.structs.replace(options, data=(*options.data, *mounts.file_label(label)))
    return mounts.Filesystem(mount.type, mount.source, mount.destination, options,
                             label if mount.type == "mqueue" else "")


def _cgroups(mount: spec_types.Mount, cgroup: CgroupManager, layout: Layout, own_view: bool, label: str) -> Step:
    options = parse([word for word in mount.options if word not in ("bind", "rbind")])
    paths = cgroup.paths()
    if layout.version == "v2":
        if own_view:
            return mounts.CgroupV2(mount.destination, options)
        if UNIFIED not in paths:
            raise InvalidResources("a cgroup mount without a cgroup namespace needs a cgroup of the container's own")
        return mounts.CgroupBinds(mount.destination, options, {"": paths[UNIFIED]}, {})
    directories: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for tree in layout.v1:
        known = [name for name in tree.controllers if name in paths]
        if known:
            directories[tree.directory] = paths[known[0]]
            aliases.update({name: tree.directory for name in known if name != tree.directory and "=" not in name})
    return mounts.CgroupBinds(mount.destination, options, directories, aliases, label)
