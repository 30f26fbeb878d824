"""Looking a path up through layers, several times over: what was found out once stays right."""

from __future__ import annotations

import os
from pathlib import Path

from barque.store.mend import OPAQUE, Layers


def test_answers_for_paths_below_the_same_gap(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    (upper / "hidden").mkdir(parents=True)
    os.setxattr(upper / "hidden", OPAQUE, b"y")
    for path in ("hidden/a/b", "shown/a/b"):
        (lower / path).mkdir(parents=True)
    with Layers([str(upper), str(lower)]) as layers:
        for path in (b"hidden/a/b", b"hidden/a", b"hidden/a/b", b"nowhere/a", b"nowhere"):
            assert layers.find(path) is None, path
        assert layers.find(b"/nowhere/") is None
        for path in (b"shown/a/b", b"shown/a", b"/shown/a/", b"hidden", b""):
            found = layers.find(path)
            assert found is not None, path
            place = (upper if path in (b"hidden", b"") else lower) / os.fsdecode(path.strip(b"/"))
            assert os.path.samestat(os.fstat(found), os.stat(place))
            os.close(found)
