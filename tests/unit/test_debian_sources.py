"""Which package sources a base image is made from."""

from __future__ import annotations

from barque.cli.debian import Source, for_suite, parse_deb822, parse_list

DEB822 = """# the distribution
Types: deb deb-src
URIs: http://packages.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/some.gpg

Types: deb-src
URIs: http://packages.example/debian
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://other.example/debian
Suites: bookworm
Components: main
"""
LIST = """
deb [arch=amd64 signed-by=/k.gpg] http://packages.example/debian bookworm main contrib # why
deb-src http://packages.example/debian bookworm main
deb http://security.example bookworm-security main
deb http://third.example/apt stable main
"""


def test_deb822() -> None:
    assert [str(source) for source in parse_deb822(DEB822)] == [
        f"deb [signed-by=/usr/share/keyrings/some.gpg] http://packages.example/debian {suite} main"
        for suite in ("bookworm", "bookworm-updates", "bookworm-backports")]


def test_one_line_style_for_another_release() -> None:
    found = for_suite(list(parse_list(LIST)), "bookworm", "trixie")
    assert found == [Source("http://packages.example/debian", "trixie", "main contrib", "arch=amd64 signed-by=/k.gpg"),
                     Source("http://security.example", "trixie-security", "main")]


def test_backports_are_left_out() -> None:
    found = for_suite(list(parse_deb822(DEB822)), "bookworm", "bookworm")
    assert [source.suite for source in found] == ["bookworm", "bookworm-updates"]
