from __future__ import annotations

import pytest

from barque.errors import InvalidArgument
from barque.network.hosts_files import hostname, hosts, resolv_conf, resolv_source


def test_hosts_as_dockerd_writes_it() -> None:
    made = hosts([("172.17.0.2", ["web.example.org", "web"])], ["db:10.0.0.5", "v6:[::1]", "gw:host-gateway"],
                 host_gateway="172.17.0.1")
    assert made == (b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n"
                    b"ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
                    b"10.0.0.5\tdb\n::1\tv6\n172.17.0.1\tgw\n172.17.0.2\tweb.example.org web\n")


def test_hosts_with_the_hosts_network_extend_its_own_file() -> None:
    assert hosts([], ["a:1.2.3.4"], base=b"127.0.0.1 me") == b"127.0.0.1 me\n1.2.3.4\ta\n"
    assert hosts([], [], base=b"") == b""


@pytest.mark.parametrize("extra", ["nocolon", ":1.2.3.4", "a:1.2.3", "a:host-gateway", "a b:1.2.3.4", "a\n:1.2.3.4"])
def test_bad_extra_hosts(extra: str) -> None:
    with pytest.raises(InvalidArgument):
        hosts([], [extra])


def test_hostname() -> None:
    assert hostname("web") == b"web\n"


HOST = "# made by hand\nnameserver 127.0.0.1\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver ::1\n" \
       "domain old.example\nsearch a.example b.example\noptions ndots:2 timeout:1\n;nameserver 9.9.9.9\n"


def test_resolvers_that_a_container_cannot_reach_are_left_out() -> None:
    assert resolv_conf(HOST) == (b"nameserver 192.0.2.53\nsearch a.example b.example\noptions ndots:2 timeout:1\n")
    assert b"fe80::1%eth0" in resolv_conf(HOST, ipv6=True)
    assert b"nameserver 127.0.0.1\n" in resolv_conf(HOST, loopback=True)


def test_fallback_when_none_is_left() -> None:
    assert resolv_conf("nameserver 127.0.0.53\n") == b"nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
    assert resolv_conf("", ipv6=True).count(b"nameserver") == 4
    assert resolv_conf("", loopback=True) == b""


def test_overrides() -> None:
    assert resolv_conf(HOST, dns=["127.0.0.1"], search=["."], options=["rotate"]) == \
        b"nameserver 127.0.0.1\noptions rotate\n"
    assert resolv_conf(HOST, search=["x.example"]).splitlines()[1] == b"search x.example"


def test_source() -> None:
    assert resolv_source("nameserver 127.0.0.53\noptions edns0\n") == "/run/systemd/resolve/resolv.conf"
    assert resolv_source("nameserver 127.0.0.53\nnameserver 192.0.2.1\n") == "/etc/resolv.conf"
