"""What a client asks of a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from barque.image.client.auth import Credentials
from barque.oci.platform import Platform
from barque.oci.reference import Reference

#: ``--output type=``: files, an archive of them, an OCI layout, docker's archive, an image here, one in a registry.
OUTPUTS = ("local", "tar", "oci", "docker", "image", "registry")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of RUN containers. Memory in bytes, CPU times in microseconds; 0 is no limit. ``ulimits``: name, soft,
    hard.
    """

    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    cgroup_parent: str = ""
    shm_size: int = 0
    ulimits: tuple[tuple[str, int, int], ...] = ()
    security_opt: tuple[str, ...] = ()


@dataclass(frozen=True)
class BindMount:
    """A directory or file of the host in a RUN step's container."""

    source: str
    target: str
    readonly: bool = True


@dataclass(frozen=True)
class Output:
    """Where the result goes: ``type`` is one of :data:`OUTPUTS`, ``attrs`` what else was said, as BuildKit names it.

    ``sent``: the client takes it as an archive.
    """

    type: str
    attrs: Mapping[str, str] = field(default_factory=dict)
    sent: bool = False

    def flag(self, name: str) -> bool:
        return self.attrs.get(name, "") in ("true", "1")


@dataclass(frozen=True)
class Attestations:
    """``provenance``: "", "min" (without arguments and steps) or "max"."""

    sbom: bool = False
    provenance: str = ""

    def __bool__(self) -> bool:
        return self.sbom or bool(self.provenance)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """``arguments`` with the value None are taken from the defaults. ``network``: "" is the default network.

    ``epoch``: SOURCE_DATE_EPOCH, -1 without. ``remove`` says whether the client is told of the removal of a step's
    container: the step has become a layer by then, so there is nothing to keep. ``credentials``: by registry.
    ``cache_from``: images here, or ``type=registry,ref=...``; ``cache_to``: ``type=registry,...`` or ``type=inline``.
    ``binds``: what every RUN sees of the host. ``keep_failed``: a RUN that fails leaves an image with what it did.
    ``trace``: the client wants events instead of docker's text.
    """

    tags: tuple[Reference, ...] = ()
    dockerfile: str = "Dockerfile"
    remote: str = ""
    target: str = ""
    arguments: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    cache_from: tuple[str, ...] = ()
    no_cache: bool = False
    pull: bool = False
    remove: bool = True
    quiet: bool = False
    network: str = ""
    extra_hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    allow_insecure: bool = False
    epoch: int = -1
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    ssh: Mapping[str, str] = field(default_factory=dict)
    credentials: Mapping[str, Credentials] = field(default_factory=dict)
    cache_to: tuple[str, ...] = ()
    binds: tuple[BindMount, ...] = ()
    keep_failed: bool = False
    squash: bool = False
    outputs: tuple[Output, ...] = ()
    attestations: Attestations = field(default_factory=Attestations)
    trace: bool = False
