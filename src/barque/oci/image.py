"""Image configuration (OCI image-spec, config.md, with docker's extensions) and chain ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from barque.oci.digest import Digest


class Healthcheck(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    """Docker's extension: times are nanoseconds, 0 means inherit or default."""

    test: tuple[str, ...] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class RunConfig(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    """The ``config`` object: defaults for containers of the image. ``None`` and absent are the same."""

    user: str = ""
    exposed_ports: dict[str, dict[str, Any]] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, dict[str, Any]] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    args_escaped: bool = False
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] | None = None
    shell: tuple[str, ...] | None = None


class RootFS(msgspec.Struct, frozen=True):
    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """The configuration blob; its digest is the image id that docker shows. Unknown fields stay in the blob only."""

    created: str = ""
    author: str = ""
    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    variant: str = ""
    config: RunConfig | None = None
    rootfs: RootFS = RootFS()
    history: tuple[History, ...] | None = None


def chain_ids(diff_ids: Iterable[str]) -> Iterator[Digest]:
    """The chain id of each layer prefix, bottom first (config.md#layer-chainid)."""
    chain: Digest | None = None
    for diff_id in diff_ids:
        current = Digest.parse(diff_id)
        if chain is not None:
            current = Digest("sha256:" + hashlib.sha256(f"{chain} {current}".encode()).hexdigest())
        chain = current
        yield chain
