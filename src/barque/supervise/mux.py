"""Docker's multiplexed stream: each piece of output behind 8 bytes of header (Engine API, "Stream format").

::

    0        1  2  3  4           8            8 + length
    +--------+--------+-----------+------------+
    | stream | 0 0 0  | length BE | payload    |      stream: 1 standard output, 2 standard error
    +--------+--------+-----------+------------+
"""

from __future__ import annotations

from struct import Struct

_HEADER = Struct("!BxxxI")


def header(stream: int, length: int) -> bytes:
    return _HEADER.pack(stream, length)
