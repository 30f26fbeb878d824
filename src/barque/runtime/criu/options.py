"""What a checkpoint and a restore may be told, and what criu is told in either case."""

from __future__ import annotations

import os

import msgspec

from barque.errors import InvalidArgument
from barque.oci.runtime_spec import Spec
from barque.runtime.criu import wire
from barque.runtime.criu.session import which
from barque.sys import namespaces

#: Links of the first process's standard streams, in runc's form: the names that they are known to criu by.
DESCRIPTORS = "descriptors.json"
#: As runc has it, so that what an administrator says there about criu holds here too.
_CONFIG_FILE = "/etc/criu/runc.conf"
_CONFIG_ANNOTATION = "org.criu.config"
_LOG_LEVEL = 4


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """``images`` and ``work`` (criu's log, by default among the images) are directories; ``program`` is criu.

    ``parent`` is the directory of an earlier checkpoint, relative to ``images``.
    """

    images: str
    work: str = ""
    program: str = ""
    tcp_established: bool = False
    ext_unix_sk: bool = False
    shell_job: bool = False
    file_locks: bool = False
    auto_dedup: bool = False
    cgroups: str = ""
    parent: str = ""
    leave_running: bool = False
    pre_dump: bool = False
    tcp_skip_in_flight: bool = False
    link_remap: bool = False
    lsm_profile: str = ""
    lsm_mount_context: str = ""

    def log(self, name: str) -> str:
        return os.path.join(self.work or self.images, name)


def common(options: Options, spec: Spec, log: str) -> dict[str, wire.Value]:
    """The part of a request that both have, but for the directories."""
    if options.cgroups not in wire.CGROUP_MODES:
        raise InvalidArgument("Invalid manage-cgroups-mode value")
    found: dict[str, wire.Value] = {
        "log_level": _LOG_LEVEL, "log_file": log, "notify_scripts": True, "orphan_pts_master": True,
        "tcp_established": options.tcp_established, "ext_unix_sk": options.ext_unix_sk, "shell_job": options.shell_job,
        "file_locks": options.file_locks, "auto_dedup": options.auto_dedup,
        "manage_cgroups": True, "manage_cgroups_mode": wire.CGROUP_MODES[options.cgroups],
        # What is in a network namespace is not criu's to make: it was joined, or holds devices of the host's.
        "empty_ns": namespaces.CLONE_NEWNET}
    if config := spec.annotations.get(_CONFIG_ANNOTATION, _CONFIG_FILE):
        found["config_file"] = config
    if which("iptables-restore") is None:
        found["network_lock"] = wire.NETWORK_LOCK_NFTABLES
    return found


def open_directories(options: Options) -> list[int]:
    """Those of the images and of the log, which becomes criu's working directory. The caller closes them."""
    images = os.open(options.images, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return [images, os.open(options.work or options.images, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    except OSError:
        os.close(images)
        raise


def naming(directories: list[int]) -> dict[str, wire.Value]:
    """The part of a request that names directories, by descriptors of whoever made criu's socket."""
    images, work = directories
    return {"images_dir_fd": images, "work_dir_fd": work}
