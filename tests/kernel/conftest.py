"""What the tests of networks share: an engine's network, and servers in containers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from barque.network.stack import Network
from tests.kernel.network_world import Servers, engine


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    async with engine(tmp_path / "exec") as made:
        yield made


@pytest.fixture
def servers() -> Iterator[Servers]:
    running = Servers()
    yield running
    running.stop()
