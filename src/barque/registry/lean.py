"""Imports without what libraries load on the off chance: asyncio takes TLS along, which is 1.2 MB."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def leaving_out(*names: str) -> Iterator[None]:
    """Imports inside do not find these modules, and their importers do without; those that are loaded already stay."""
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment] # what makes an import fail (reference, 5.3.1)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
