"""How an image came about: its history beside the sizes of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from barque.errors import DataLoss
from barque.oci.image import History, ImageConfig


class BrokenHistory(DataLoss):
    text = "too many non-empty layers in History section"


@dataclass(frozen=True, slots=True)
class Step:
    """One step, with the bytes that its layer added (0 for a step without one)."""

    history: History
    size: int


def steps(config: ImageConfig, layer_sizes: Sequence[int]) -> list[Step]:
    """Newest first, as docker shows them; raises :class:`BrokenHistory`."""
    sizes = list(layer_sizes)
    found = []
    for entry in config.history or ():
        if entry.empty_layer:
            found.append(Step(entry, 0))
        elif sizes:
            found.append(Step(entry, sizes.pop(0)))
        else:
            raise BrokenHistory
    return found[::-1]
