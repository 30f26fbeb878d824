"""A container as it is stored: what was asked for, what was made of it, and the facts of its life."""

from __future__ import annotations

import msgspec

from barque.engine.containers.machine import Facts
from barque.engine.containers.options import ContainerConfig, EndpointSettings, HostConfig
from barque.network.model import Sandbox


class MountPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One mount that was asked for. ``type`` is bind, volume, tmpfs or image; ``source`` a path of the host.

    ``anonymous`` volumes go with ``rm -v`` and ``--rm``. ``copy`` fills an empty volume from the image first. Of an
    image ``name`` is how it was asked for. ``deep_ro``: what is mounted below a read-only one is read-only as well.
    ``match_user``: files of the owner of ``source`` belong to the container's user in there, and those that it makes
    to the owner.
    """

    type: str
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    options: tuple[str, ...] = ()
    anonymous: bool = False
    copy: bool = False
    subpath: str = ""
    recursive: bool = True
    create_source: bool = False
    image_id: str = ""
    deep_ro: bool = True
    match_user: bool = False


class HealthResult(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    start: str
    end: str
    exit_code: int
    output: str


class Health(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """``status`` is starting, healthy or unhealthy; ``log`` holds the last five results."""

    status: str = "starting"
    failing_streak: int = 0
    log: tuple[HealthResult, ...] = ()


class Container(msgspec.Struct, kw_only=True):
    """The document in the database. The engine changes ``facts``, ``name``, ``host_config`` (update) and
    ``sandbox``. ``process_label`` and ``mount_label`` are SELinux's.
    """

    id: str
    name: str
    created: str
    image: str
    image_id: str
    chain_id: str | None
    path: str
    args: list[str]
    config: ContainerConfig
    host_config: HostConfig
    endpoints: dict[str, EndpointSettings]
    mounts: list[MountPoint]
    log_path: str = ""
    facts: Facts = Facts()
    sandbox: Sandbox | None = None
    health: Health | None = None
    process_label: str = ""
    mount_label: str = ""

    @property
    def slashed(self) -> str:
        """The name as docker's API shows it."""
        return "/" + self.name

    @property
    def network_mode(self) -> str:
        return "none" if self.config.network_disabled else self.host_config.network_mode
