"""What this kernel can do, asked of the kernel itself and never guessed from its version."""

from __future__ import annotations

import os

from barque.sys import namespaces


def has_namespace(kind: str) -> bool:
    """Whether the kernel has namespaces of ``kind`` (OCI's name)."""
    return os.path.exists(f"/proc/self/ns/{namespaces.LINKS[kind]}")
