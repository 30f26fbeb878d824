"""What ``--validate`` and a start find out about a configuration before anything is opened."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from barque import daemon
from barque.api.listeners import open_metrics
from barque.errors import Unavailable

WRONG: list[tuple[dict[str, object], str]] = [
    ({"bip": "10.0.0.0/24"}, "bip: '10.0.0.0/24' is no host's address: 10.0.0.1/24 is one"),
    ({"bip": "10.0.0/24"}, "bip: '10.0.0/24' is no IPv4 address with a prefix like 172.30.0.1/16"),
    ({"bip": "10.0.0.1"}, "bip: '10.0.0.1' leaves no room for containers"),
    ({"fixed-cidr": "10.0.0.0/24"}, "fixed-cidr: '10.0.0.0/24' says nothing without the bridge's subnet: set bip, too"),
    ({"bip": "10.0.0.1/24", "fixed-cidr": "10.1.0.0/24"}, "is not inside the subnet of bip 10.0.0.1/24"),
    ({"mtu": 20}, "mtu: '20' is out of range: want 68 to 65535"),
    ({"default-address-pools": [{"base": "10.0.0.0/16", "size": 8}]}, "base=10.0.0.0/16,size=8' has a wrong size"),
    ({"default-address-pools": [{"base": "10.0.0.1/16", "size": 24}]}, "is no IPv4 base like 10.200.0.0/16"),
    ({"default-address-pools": [{"base": "10.0.0.0/16", "size": 24}, {"base": "10.0.0.0/8", "size": 24}]},
     "default-address-pools: '10.0.0.0/8' overlaps 10.0.0.0/16: leave one out"),
    ({"hosts": ["foo://x"]}, "hosts: Invalid bind address format: foo://x: want unix:///PATH, tcp://ADDRESS:PORT"),
    ({"hosts": ["tcp://127.0.0.1:99999"]}, "hosts: Invalid bind address format: tcp://127.0.0.1:99999: want tcp://"),
    ({"hosts": ["unix://a"]}, "hosts: Invalid bind address format: unix://a: want unix:///PATH"),
    ({"hosts": ["unix:///" + "a" * 200]}, "has at most 107 bytes"),
    ({"hosts": ["tcp://0.0.0.0:2375"]}, "hosts: tcp://0.0.0.0:2375: the API gives root to whoever reaches it"),
    ({"hosts": ["unix:///a", "unix:///a"]}, "hosts: 'unix:///a' is there twice: leave one out"),
    ({"group": "no-such-group"}, "group: group no-such-group not found: make it, or name another one"),
    ({"metrics-addr": "localhost:http"}, "metrics-addr: 'localhost:http' is no ADDRESS:PORT like 127.0.0.1:9323"),
    ({"tls": True}, "tls is on, but tlscert is not set: name a PEM file with tlscert, or turn TLS off"),
    ({"tlsverify": True, "tlscert": "/etc/passwd", "tlskey": "/etc/passwd"}, "tlsverify is on, but tlscacert is not"),
    ({"tls": True, "tlscert": "/nope.pem"}, "tlscert: '/nope.pem' cannot be read: No such file or directory"),
    ({"tls": True, "tlscert": "/etc/passwd", "tlskey": "/etc/passwd"},
     "tlscert: '/etc/passwd', tlskey: '/etc/passwd' cannot be used together"),
    ({"ip": "x"}, "ip: 'x' is no IP address"), ({"dns": ["8.8.8"]}, "dns: '8.8.8' is no IP address"),
    ({"host-gateway-ip": "gw"}, "host-gateway-ip: 'gw' is no IP address"),
    ({"dns-search": ["a..b"]}, "dns-search: 'a..b' is no domain like example.com"),
    ({"dns-opts": ["a b"]}, "dns-opts: 'a b' is no option of resolv.conf(5)"),
    ({"registry-mirrors": ["m.example"]}, "registry-mirrors: invalid mirror: must use either 'https://' or 'http://'"),
    ({"insecure-registries": ["http://r"]}, "insecure-registries: insecure registry http://r is not valid"),
    ({"insecure-registries": ["10.0.0.0/99"]}, "insecure-registries: insecure registry 10.0.0.0/99 is not valid"),
    ({"proxies": {"http-proxy": "ftp://p"}}, "http-proxy: invalid proxy address 'ftp://p'"),
    ({"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 20, "Hard": 10}}},
     "default-ulimits: 'nofile=20:10' has a soft limit above the hard one"),
    ({"default-ulimits": {"files": {"Name": "files", "Soft": 1, "Hard": 1}}}, "'files' is no limit: want one of as,"),
    ({"runtimes": {"r": {"path": ""}}}, "runtimes: r: '' names no program: give its path"),
    ({"runtimes": {"r": {"path": "/nope"}}}, "runtimes: r: '/nope' is not there: name a program"),
    ({"runtimes": {"r": {"path": "/etc/passwd"}}}, "runtimes: r: '/etc/passwd' cannot be executed: name a program"),
    ({"init-path": "/nope"}, "init-path: '/nope' is not there: name a program"),
    ({"seccomp-profile": "/nope"}, "seccomp-profile: '/nope' cannot be read"),
    ({"seccomp-profile": "/etc/passwd"}, "seccomp-profile: '/etc/passwd' is not as it should be: Decoding seccomp"),
    ({"signature-policy": "/etc/passwd"}, "signature-policy: '/etc/passwd' is not as it should be"),
    ({"data-root": "/etc/passwd/x"}, "data-root: '/etc/passwd/x' cannot be made: /etc/passwd is no directory"),
    ({"log-file": "/nope/x"}, "log-file: '/nope/x' has no directory: make it first"),
    ({"labels": ["a=1", "a=2"]}, "labels: 'a=2' contradicts a=1: leave one out"),
    ({"default-shm-size": "0"}, "default-shm-size: '0' is no size like 64m"),
    ({"exec-opts": ["native.cgroupdriver=systemd"], "cgroup-parent": "x"}, "cgroup-parent: 'x' is no slice"),
    ({"log-driver": "local", "log-opts": {"max-size": "x"}}, "failed to set log opts: invalid value for max-size: x"),
]


def validated(tmp_path: Path, settings: dict[str, object]) -> int:
    path = tmp_path / "daemon.json"
    path.write_text(json.dumps(settings))
    return daemon.main(["--validate", "--config-file", str(path)])


@pytest.mark.parametrize(("settings", "text"), WRONG)
def test_what_would_fail_later_is_found_by_validate(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                    settings: dict[str, object], text: str) -> None:
    assert validated(tmp_path, settings) == 125
    assert text in capsys.readouterr().err


def test_good_values_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"bip": "10.0.0.1/24", "fixed-cidr": "10.0.0.128/25", "mtu": 1400, "ip": "::1", "dns": ["::1"],
                "default-address-pools": [{"base": "10.1.0.0/16", "size": 24}, {"base": "10.2.0.0/16", "size": 30}],
                "hosts": ["unix:///run/a", "tcp://[::1]:2375", "fd://"], "allow-insecure-tcp": True, "group": "0",
                "metrics-addr": ":9323", "dns-search": ["example.com", "."], "dns-opts": ["ndots:2"],
                "registry-mirrors": ["https://m.example"], "insecure-registries": ["10.0.0.0/8", "r.example:5000"],
                "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 10, "Hard": -1}}, "labels": ["a=1", "b=2"],
                "runtimes": {"r": {"path": "sh"}}, "init-path": "/bin/sh"}
    assert validated(tmp_path, settings) == 0, capsys.readouterr().err
    assert capsys.readouterr().out == "configuration OK\n"


def test_a_port_in_use_is_told_with_its_key_and_the_mend() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"metrics-addr: cannot listen on {address}: Address already in use: end "
                                              "what listens there, or choose another port"):
            open_metrics(address)
