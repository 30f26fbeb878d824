"""The commands state, list, ps, spec and features."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from barque.errors import Conflict, InvalidArgument
from barque.oci.runtime_spec import OCI_VERSION
from barque.runtime import capabilities, default_spec, state
from barque.runtime.options import WORDS
from barque.runtime.seccomp_compile import ACTIONS, MACHINES, OPERATORS
from barque.runtime.seccomp_profile import FLAGS
from barque.sys import fds, namespaces, process, seccomp

if TYPE_CHECKING:
    from barque.runtime.dispatch import Invocation


def _document(container: state.Container) -> dict[str, Any]:
    facts, status = container.state, container.status()
    return {"ociVersion": OCI_VERSION, "id": facts.id, "pid": 0 if status == "stopped" else facts.pid,
            "status": status, "bundle": facts.bundle, "rootfs": facts.rootfs, "created": facts.created,
            **({"annotations": facts.spec.annotations} if facts.spec.annotations else {}), "owner": facts.owner}


def state_command(invocation: Invocation) -> int:
    print(json.dumps(_document(state.load(invocation.root, invocation.container_id)), indent=2))
    return 0


def list_command(invocation: Invocation) -> int:
    containers = state.load_all(invocation.root)
    form = invocation.options.text("format") or "table"
    if invocation.options.flag("quiet"):
        for container in containers:
            print(container.state.id)
        return 0
    if form not in ("table", "json"):
        raise InvalidArgument("invalid format option")
    documents = [_document(container) for container in containers]
    if form == "json":
        print(json.dumps(documents or None, separators=(",", ":")))
        return 0
    rows: list[tuple[str, ...]] = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
    rows += [tuple(str(item[key]) for key in ("id", "pid", "status", "bundle", "created", "owner"))
             for item in documents]
    widths = [max(12, *(len(row[column]) + 3 for row in rows)) for column in range(6)]
    for row in rows:
        print("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def ps_command(invocation: Invocation) -> int:
    """The processes of the container, as ps(1) of the host shows them."""
    container = state.load(invocation.root, invocation.container_id)
    pids = container.cgroup.pids()
    form = invocation.options.text("format") or "table"
    if form == "json":
        print(json.dumps(pids or None, separators=(",", ":")))
        return 0
    if form != "table":
        raise InvalidArgument("invalid format option")
    lines = _output_of(["ps", *(invocation.options.rest[1:] or ["-ef"])]).splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise Conflict("couldn't find PID field in ps output")
    column = titles.index("PID")
    print(lines[0])
    for line in lines[1:]:
        fields = line.split()
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            print(line)
    return 0


def _output_of(argv: Sequence[str]) -> str:
    """What a program of the host prints; raises Conflict when it fails."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = process.clone(0)
    if child is None:
        try:
            fds.place((writer,), 1)
            process.reset_signals()
            os.execvp(argv[0], list(argv))
        finally:
            os._exit(127)
    os.close(writer)
    with open(reader, "rb") as file:
        output = file.read()
    code = process.wait(child.pidfd)
    os.close(child.pidfd)
    if code:
        raise Conflict(f"{argv[0]} failed with exit status {code}")
    return output.decode(errors="replace")


def spec_command(invocation: Invocation) -> int:
    """Write a config.json to begin with."""
    path = os.path.join(invocation.options.text("bundle") or ".", "config.json")
    document = default_spec.default_document(rootless=invocation.options.flag("rootless"))
    try:
        with open(path, "x") as file:
            json.dump(document, file, indent="\t")
    except FileExistsError:
        raise Conflict("File config.json exists. Remove it first") from None
    return 0


def features_command(_: Invocation) -> int:
    """What this runtime can do, in the form of features.md, whatever this kernel has; capabilities, and the flags of
    seccomp that are said to be supported, are the kernel's.
    """
    print(json.dumps({
        "ociVersionMin": "1.0.0", "ociVersionMax": OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": sorted(WORDS),
        "linux": {
            "namespaces": sorted(namespaces.FLAGS),
            "capabilities": capabilities.known(),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": {"enabled": True, "actions": sorted(ACTIONS), "operators": sorted(OPERATORS),
                        "archs": sorted(MACHINES[os.uname().machine]), "knownFlags": sorted(FLAGS),
                        "supportedFlags": sorted(name for name in FLAGS if seccomp.supports_flag(FLAGS[name]))},
            "apparmor": {"enabled": True}, "selinux": {"enabled": True}, "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}}, "netDevices": {"enabled": True},
        },
    }, indent=2))
    return 0
