"""Run the name keeper out of its plain files (``python -I -S .../dns/__main__.py``): no site, no packages, small."""

from __future__ import annotations

import sys

sys.path.insert(0, __file__.rsplit("/barque/", 1)[0])

from barque.network.dns.keeper import main

main()
