"""The zygote of a daemon whose monitors leave their containers to the keeper at every chance."""

from __future__ import annotations

import sys

from barque.supervise import zygote

if __name__ == "__main__":
    zygote.main(sys.argv[1], rest_after=0)
