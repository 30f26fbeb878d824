"""What a build needs from the parts around it: small Protocols, met by the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from barque.build.options import BindMount, Limits
from barque.image.client.auth import Credentials
from barque.oci.descriptor import Descriptor
from barque.oci.image import ImageConfig
from barque.oci.manifest import Manifest
from barque.oci.platform import Platform
from barque.store.leases import Lease

STDOUT, STDERR = 1, 2


class BaseImage(Protocol):
    """An image to start from; ``chain_id`` is None for one without layers."""

    @property
    def id(self) -> str: ...
    @property
    def config(self) -> ImageConfig: ...
    @property
    def manifest(self) -> Manifest: ...
    @property
    def target(self) -> Descriptor: ...
    @property
    def chain_id(self) -> str | None: ...


class Progress(Protocol):
    def __call__(self, line: object, /) -> None:
        """Pass one of docker's progress messages on to the client."""


class BaseImages(Protocol):
    async def base(self, name: str, platform: Platform | None, *, pull: bool, report: Progress, lease: Lease,
                   credentials: Mapping[str, Credentials]) -> BaseImage:
        """The image called ``name``, pulled where it is not here or where ``pull`` says so; held by ``lease``."""

    async def local(self, name: str, lease: Lease) -> BaseImage | None:
        """The image if it is here, held by ``lease``."""


@dataclass(frozen=True)
class TmpfsMount:
    """``size`` in bytes, 0 for no limit."""

    target: str
    size: int = 0
    readonly: bool = False


@dataclass(frozen=True, kw_only=True)
class RunOrder:
    """A RUN step. ``env`` is the whole environment, ``user`` as docker writes it; ``image_id`` is for people."""

    image_id: str
    chain_id: str | None
    command: tuple[str, ...]
    env: tuple[str, ...]
    user: str = ""
    working_dir: str = ""
    volumes: tuple[str, ...] = ()
    binds: tuple[BindMount, ...] = ()
    tmpfs: tuple[TmpfsMount, ...] = ()
    network: str = ""
    privileged: bool = False
    extra_hosts: tuple[str, ...] = ()
    limits: Limits


@dataclass(frozen=True)
class StepExit:
    code: int
    oom_killed: bool = False
    error: str = ""


class RunningStep(Protocol):
    """A RUN step under way. Leaving its context ends and removes the container; its layer, if still there, too."""

    @property
    def id(self) -> str: ...
    @property
    def mount_points(self) -> Sequence[str]:
        """Where something was mounted that is no part of the image: absolute paths."""

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Pieces of output, each with STDOUT or STDERR, until the step has ended."""

    async def wait(self) -> StepExit:
        """After all output."""


class StepRunner(Protocol):
    def run(self, order: RunOrder) -> AbstractAsyncContextManager[RunningStep]:
        """A container over ``order.chain_id``, created and about to run; raises BarqueError when it cannot start."""


class Workers(Protocol):
    async def run(self, kind: str, request: bytes, fds: Sequence[int]) -> bytes: ...
