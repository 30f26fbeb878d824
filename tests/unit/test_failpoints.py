"""Each named point at which the engine can be made to die is one that a test makes it die or fail at."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
POINTS = sorted({point for path in (ROOT / "src").rglob("*.py")
                 for point in re.findall(r'\bhit\("([^"]+)"\)', path.read_text())})
TESTS = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("point", POINTS)
def test_point_is_used(point: str) -> None:
    area, _, rest = point.partition(".")
    assert f'"{point}"' in TESTS or f"{point}=" in TESTS or (f'f"{area}.' in TESTS and any(
        f'"{tail}"' in TESTS for tail in (rest, rest.partition(".")[2])))
