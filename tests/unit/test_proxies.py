"""Which requests go through which proxy."""

from __future__ import annotations

import pytest

from barque.config import Config
from barque.daemon import with_proxies
from barque.image.client.proxies import InvalidProxy, Proxies, without_password

BYPASS = ("*.all.example, .sub.example,name.example,port.example:8443,10.0.0.0/8,192.0.2.7,2001:db8::/32,"
          "[2001:db9::1]:5000")


@pytest.mark.parametrize(("authority", "direct"), [
    ("other.example", False), ("a.all.example", True), ("a.sub.example", True), ("sub.example", False),
    ("name.example", True), ("a.name.example", True), ("xname.example", False), ("NAME.example:5000", True),
    ("port.example", False), ("port.example:8443", True), ("10.9.8.7:5000", True), ("11.0.0.1", False),
    ("192.0.2.7", True), ("192.0.2.77", False), ("[2001:db8::5]:5000", True), ("[2001:db9::1]:5000", True),
    ("[2001:db9::1]", False), ("localhost:5000", True), ("127.0.0.5:5000", True), ("[::1]:5000", True),
])
def test_bypass(authority: str, direct: bool) -> None:
    proxies = Proxies(http="proxy.example:3128", https="http://proxy.example", bypass=BYPASS)
    assert proxies.of("http", authority) == (None if direct else "http://proxy.example:3128")
    assert (proxies.of("https", authority) is None) == direct


def test_everything_can_be_asked_directly() -> None:
    assert Proxies(http="proxy.example", bypass="a.example,*").of("http", "other.example") is None
    assert Proxies(https="http://proxy.example").of("http", "other.example") is None


@pytest.mark.parametrize("value", ["https://proxy.example", "socks5://proxy.example", "http://"])
def test_bad_proxy(value: str) -> None:
    with pytest.raises(InvalidProxy):
        Proxies(https=value)


def test_passwords_are_not_shown() -> None:
    assert without_password("http://ann:secret@proxy:1/") == "http://xxxxx:xxxxx@proxy:1/"
    assert without_password("proxy:1") == "proxy:1"
    with pytest.raises(InvalidProxy) as caught:
        Proxies(http="https://ann:secret@proxy")
    assert "secret" not in caught.value.message


def test_the_configuration_wins_over_the_environment() -> None:
    found = with_proxies(Config(http_proxy="one"), {"HTTP_PROXY": "two", "https_proxy": "three", "NO_PROXY": "four"})
    assert (found.http_proxy, found.https_proxy, found.no_proxy) == ("one", "three", "four")
