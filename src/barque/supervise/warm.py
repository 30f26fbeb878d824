"""What the zygote does before it forks anybody, so that its children need not.

A child starts with a copy of all that was worked out here: the host's cgroups, its capabilities, the compiled filter of
containers that ask for no other. And CPython 3.11 writes into the code of functions as it gets to know them (counters
first, then specialised instructions, PEP 659): a page that is written in a child is a page copied for it alone. So the
pure part of a start is rehearsed until that has settled.
"""

from __future__ import annotations

import msgspec

from barque.oci.runtime_spec import OCI_VERSION, Capabilities, Linux, Mount, Namespace, Process, Root, Spec
from barque.runtime import capabilities, cgroups, plan, seccomp_profile, security, validate
from barque.runtime.default_spec import default_mounts
from barque.runtime.payload import Payload, compile_filter
from barque.supervise import messages as m
from barque.supervise.builtin import decode_spec
from barque.supervise.wire import REQUESTS, Decoder, encode
from barque.sys import caps

#: More than CPython wants to see (8 calls, then 53 misses at most at one place).
REHEARSALS = 12


def default_container() -> Spec:
    """A document like the engine's for a container without options."""
    names = [name for name in capabilities.DEFAULT if caps.bounding() >> caps.NUMBERS[name] & 1]
    return Spec(
        oci_version=OCI_VERSION, root=Root("rootfs"), hostname="x",
        process=Process(args=["true"], env=["PATH=/bin"], cwd="/",
                        capabilities=Capabilities(bounding=names, effective=names, permitted=names)),
        mounts=[*default_mounts(), Mount("/etc/hosts", "bind", "/etc/hosts", ["rbind", "rprivate"])],
        linux=Linux(namespaces=[Namespace(kind) for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
                    masked_paths=security.masked_paths(2), readonly_paths=list(security.READONLY_PATHS),
                    devices=security.default_devices(), sysctl=dict(security.DEFAULT_SYSCTLS),
                    seccomp=seccomp_profile.default_profile(frozenset(capabilities.DEFAULT))))


def up() -> None:
    """Raises OSError where the host has no cgroups."""
    order = m.CreateOrder(id="x", bundle="/", rootfs=())
    document = msgspec.json.encode(default_container())
    for _ in range(REHEARSALS):
        _rehearse(document, order)


def _rehearse(document: bytes, order: m.CreateOrder) -> None:
    decoder = Decoder(REQUESTS)
    decoder.feed(encode(1, m.Create(order)))
    decoder.next()
    spec = decode_spec(document)
    validate.check(spec)
    assert spec.process is not None and spec.linux is not None
    Payload(spec.process, spec.annotations, compile_filter(spec.linux.seccomp), keyring="x")
    layout = cgroups.known_layout()
    cgroup = cgroups.manager("/x", layout=layout)
    steps, leaving = plan.build(spec, "/", (), cgroup, layout, make_cwd=True)
    for step in (*steps, *leaving):
        step.describe()
