"""docker's ``user[:group]`` against passwd and group files of a root that is not trusted."""

from __future__ import annotations

import os

import pytest

from barque.runtime import users
from barque.runtime.failure import RuntimeFailure

PASSWD = """root:x:0:0:root:/root:/bin/sh
# a comment
worker:x:1000:1001::/home/worker:/bin/sh
1234:x:99:99:a name of digits:/home/digits:/bin/sh
broken:x:not-a-number:0::/:/bin/sh
huge:x:4294967295:0::/:/bin/sh
short:x:7
"""
GROUP = "root:x:0:\nworkers:x:1001:\naudio:x:29:worker,other\nvideo:x:44:other,worker\n5678:x:77:\nbroken:x:x:worker\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(("user", "expected"), [
    ("", (0, 0, (0,), "/root")),
    ("root", (0, 0, (0,), "/root")),
    ("worker", (1000, 1001, (1001, 29, 44), "/home/worker")),
    ("1000", (1000, 1001, (1001, 29, 44), "/home/worker")),
    ("worker:audio", (1000, 29, (29,), "/home/worker")),
    ("worker:77", (1000, 77, (77,), "/home/worker")),
    ("4711", (4711, 0, (0,), "")),
    ("4711:4712", (4711, 4712, (4712,), "")),
    (":audio", (0, 29, (29,), "/root")),
    # A number is a uid, whatever name the image gives to somebody (CVE-2026-46680).
    ("1234", (1234, 0, (0,), "")),
    ("1234:5678", (1234, 5678, (5678,), "")),
    ("4294967294", (4294967294, 0, (0,), "")),
])
def test_resolve(root, user, expected):
    assert users.resolve(root, user) == users.Identity(*expected)


def test_additional_groups_come_after_the_users_own(root):
    assert users.resolve(root, "worker", ["55", "workers", "29"]).groups == (1001, 29, 44, 55)


@pytest.mark.parametrize(("user", "groups", "text"), [
    ("ghost", [], "unable to find user ghost: no matching entries in passwd file"),
    ("broken", [], "unable to find user broken: no matching entries in passwd file"),
    ("huge", [], "unable to find user huge: no matching entries in passwd file"),
    ("-1", [], "unable to find user -1: no matching entries in passwd file"),
    ("1_000", [], "unable to find user 1_000: no matching entries in passwd file"),
    ("١", [], "unable to find user ١: no matching entries in passwd file"),
    ("worker:ghosts", [], "unable to find group ghosts: no matching entries in group file"),
    ("worker", ["ghosts"], "unable to find group ghosts: no matching entries in group file"),
    ("4294967295", [], "uids and gids must be in range 0-4294967294"),
    ("0:4294967295", [], "uids and gids must be in range 0-4294967294"),
    ("18446744073709551616", [], "uids and gids must be in range 0-4294967294"),
])
def test_who_does_not_exist(root, user, groups, text):
    with pytest.raises(RuntimeFailure) as caught:
        users.resolve(root, user, groups)
    assert str(caught.value) == text
    assert caught.value.stage == "user"


def test_a_root_without_the_files_knows_numbers_alone(tmp_path):
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert users.resolve(fd, "") == users.Identity(0, 0, (0,), "")
        assert users.resolve(fd, "5:6") == users.Identity(5, 6, (6,), "")
        assert users.home_of(fd, 0) == ""
        with pytest.raises(RuntimeFailure, match="unable to find user root"):
            users.resolve(fd, "root")
    finally:
        os.close(fd)


def test_a_directory_link_out_of_the_root_is_looked_up_within(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/passwd").write_text("spy:x:0:0::/:\n")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/etc").symlink_to(tmp_path / "outside")
    fd = os.open(tmp_path / "root", os.O_PATH)
    try:
        with pytest.raises(RuntimeFailure, match="unable to find user spy"):
            users.resolve(fd, "spy")
    finally:
        os.close(fd)
