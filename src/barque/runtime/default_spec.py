"""The document to begin with, as ``barque-runtime spec`` writes it: a shell on a read-only root."""

from __future__ import annotations

import json
import os
from typing import Any

from barque.oci import go_json
from barque.oci.runtime_spec import (
    OCI_VERSION,
    Capabilities,
    DeviceCgroup,
    IDMapping,
    Linux,
    Mount,
    Namespace,
    Process,
    Resources,
    Rlimit,
    Root,
    Spec,
)
from barque.runtime import security

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def default_mounts() -> list[Mount]:
    """The kernel's file systems that every container gets."""
    return [
        Mount("/proc", "proc", "proc"),
        Mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        Mount("/dev/pts", "devpts", "devpts",
              ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        Mount("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        Mount("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        Mount("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
        Mount("/sys/fs/cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]


def default_spec() -> Spec:
    return Spec(
        oci_version=OCI_VERSION,
        root=Root("rootfs", readonly=True),
        process=Process(
            terminal=True, args=["sh"], cwd="/", no_new_privileges=True,
            env=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            capabilities=Capabilities(bounding=_CAPABILITIES, effective=_CAPABILITIES, permitted=_CAPABILITIES),
            rlimits=[Rlimit("RLIMIT_NOFILE", 1024, 1024)]),
        hostname="barque",
        mounts=default_mounts(),
        linux=Linux(
            resources=Resources(devices=[DeviceCgroup(allow=False, access="rwm")]),
            namespaces=[Namespace(kind) for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            masked_paths=list(security.MASKED_PATHS),
            readonly_paths=list(security.READONLY_PATHS)))


def rootless_spec() -> Spec:
    """For an ordinary user: its own ids as root's, no network of its own, the host's /sys, no limits."""
    spec = default_spec()
    assert spec.linux is not None
    spec.linux.namespaces = [item for item in spec.linux.namespaces if item.type != "network"] + [Namespace("user")]
    spec.linux.uid_mappings = [IDMapping(0, os.geteuid(), 1)]
    spec.linux.gid_mappings = [IDMapping(0, os.getegid(), 1)]
    spec.linux.resources = None
    for mount in spec.mounts:
        mount.options = [word for word in mount.options if not word.startswith("gid=")]
        if mount.destination == "/sys":
            mount.type, mount.source = "none", "/sys"
            mount.options = ["rbind", "nosuid", "noexec", "nodev", "ro"]
    return spec


def default_document(*, rootless: bool = False) -> dict[str, Any]:
    """The same as a JSON tree; what the schema requires is there even where it says what is the default anyway."""
    spec = rootless_spec() if rootless else default_spec()
    assert spec.process is not None
    tree: dict[str, Any] = json.loads(go_json.encode(spec))
    tree["process"] |= {"user": {"uid": 0, "gid": 0}, "cwd": spec.process.cwd}
    for rule in tree["linux"].get("resources", {}).get("devices", []):
        rule.setdefault("allow", False)
    return tree
