"""Docker's way to choose capabilities, and its words for names that do not exist."""

from __future__ import annotations

import pytest

from barque.runtime import capabilities
from barque.runtime.capabilities import DEFAULT, STRICT, UnknownCapability, docker_caps
from barque.sys import caps


def test_the_defaults_are_dockers_14() -> None:
    assert caps.to_mask(DEFAULT) == 0xA80425FB
    assert len(STRICT) == 10
    assert set(STRICT) < set(DEFAULT)


@pytest.mark.parametrize(("add", "drop", "expected"), [
    ([], [], set(DEFAULT)),
    (["NET_ADMIN"], [], {*DEFAULT, "CAP_NET_ADMIN"}),
    (["cap_net_admin", "NET_ADMIN"], ["cap_chown"], {*DEFAULT, "CAP_NET_ADMIN"} - {"CAP_CHOWN"}),
    ([], ["ALL"], set()),
    (["CHOWN"], ["all"], {"CAP_CHOWN"}),
    (["ALL"], [], set(capabilities.known())),
    (["ALL"], ["SYS_ADMIN", "MKNOD"], set(capabilities.known()) - {"CAP_SYS_ADMIN", "CAP_MKNOD"}),
    (["ALL"], ["ALL"], set(capabilities.known())),
    (["CHOWN"], ["CHOWN"], set(DEFAULT)),
])
def test_adding_and_dropping(add: list[str], drop: list[str], expected: set[str]) -> None:
    chosen = docker_caps(add, drop)
    assert set(chosen) == expected
    assert len(chosen) == len(expected)


def test_privileged_takes_all() -> None:
    assert docker_caps([], ["ALL"], privileged=True) == capabilities.known()


@pytest.mark.parametrize(("add", "drop", "text"), [
    (["FOO"], [], 'invalid CapAdd: unknown capability: "CAP_FOO"'),
    ([], ["cap_bar"], 'invalid CapDrop: unknown capability: "CAP_BAR"'),
    (["CAP_ALL"], [], 'invalid CapAdd: unknown capability: "CAP_ALL"'),
])
def test_unknown_names_get_dockers_words(add: list[str], drop: list[str], text: str) -> None:
    with pytest.raises(UnknownCapability) as raised:
        docker_caps(add, drop)
    assert raised.value.message == text
    assert raised.value.status == 400
