"""The mount value that the store returns and the runtime consumes (OCI runtime-spec, config.md#mounts)."""

from __future__ import annotations

import msgspec


class Mount(msgspec.Struct, frozen=True, omit_defaults=True):
    """One mount to make: ``type`` at ``target`` (a path in the container, empty for the root file system itself).

    ``options`` are mount(8) words. For ``type="overlay"`` the lower directories stand in ``lower`` from topmost to
    bottommost, since hundreds of them would not fit into one option string; ``upper`` and ``work`` are absent for a
    read-only view. Nothing in here is checked or resolved: that is the job of whoever mounts it.
    """

    type: str
    source: str = ""
    target: str = ""
    options: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    upper: str = ""
    work: str = ""
