"""The zygote of a daemon whose monitors leave their containers to the keeper after so many seconds without work."""

from __future__ import annotations

import sys

from barque.supervise import zygote

if __name__ == "__main__":
    zygote.main(sys.argv[2], rest_after=float(sys.argv[1]))
