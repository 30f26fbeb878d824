"""What a client may ask of builds and of their cache: which version it speaks, what is to be pruned."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from barque.api.routes import build_options
from barque.engine.build_cache import _fits
from barque.errors import InvalidArgument

ROW: dict[str, Any] = {"ID": "abc1", "Type": "regular", "Description": "RUN true", "InUse": False, "Shared": False}


def test_a_build_of_version_2_that_sends_its_context_is_like_any_other() -> None:
    options = build_options.read(make_mocked_request("POST", "/build?version=2&session=s&t=app:1"))
    assert [str(tag) for tag in options.tags] == [
        str(tag) for tag in build_options.read(make_mocked_request("POST", "/build?t=app:1")).tags]


@pytest.mark.parametrize("remote", ["client-session", "upload-request"])
def test_a_context_that_only_a_session_has_is_refused(remote: str) -> None:
    with pytest.raises(InvalidArgument, match="this engine has no BuildKit"):
        build_options.read(make_mocked_request("POST", f"/build?version=2&remote={remote}"))


@pytest.mark.parametrize(("only", "fits"), [
    ({"id": "bc"}, True), ({"id": "^bc"}, False), ({"type": "regular"}, True), ({"type": "exec.cachemount"}, False),
    ({"description": "RUN true"}, True), ({"description": "RUN"}, False), ({"private": ""}, True),
    ({"shared": ""}, False), ({"inuse": ""}, False), ({"parent": "x"}, False), ({"id": "a", "type": "other"}, False)])
def test_what_a_prune_of_the_cache_is_about(only: dict[str, str], fits: bool) -> None:
    assert _fits(ROW, only) is fits


def test_an_expression_that_is_none() -> None:
    with pytest.raises(InvalidArgument, match=r"invalid filter 'id=\('"):
        _fits(ROW, {"id": "("})
