"""What can be said of a configuration before anything is opened: every complaint names the key, its value and the mend.

Whether a port is free or an overlay can be mounted here only a start tells.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Callable
from typing import Any

from barque.api import listeners
from barque.config import Config
from barque.daemon_options import BadOption
from barque.errors import BarqueError
from barque.sys.rlimit import NUMBERS

#: A container's address and the bridge's have to fit in.
_LONGEST_PREFIX = 30
#: IPv4 needs so much of a link (RFC 791).
_MTU = range(68, 65536)


def check(config: Config) -> None:
    """Raises :class:`BadOption` for the first thing that would fail later."""
    for part in (_sockets, _tls, _bridge, _pools, _addresses, _registries, _limits, _programs, _files):
        part(config)


def _bad(key: str, value: object, text: str) -> BadOption:
    return BadOption(f"{key}: '{value}' {text}")


def _parsed(parse: Callable[[str], Any], key: str, value: str, text: str) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise _bad(key, value, f"{text} ({error})") from None


def _sockets(config: Config) -> None:
    for host in config.hosts:
        try:
            listeners.check(host, verify=config.tls.verify, allow_insecure_tcp=config.allow_insecure_tcp)
        except BarqueError as error:
            raise BadOption(f"hosts: {error.message}") from None
        if config.hosts.count(host) > 1:
            raise _bad("hosts", host, "is there twice: leave one out")
    try:
        listeners.check_group(config.group)
    except BarqueError as error:
        raise BadOption(f"group: {error.message}") from None
    if config.metrics_addr and not listeners.is_tcp_address(config.metrics_addr):
        raise _bad("metrics-addr", config.metrics_addr, "is no ADDRESS:PORT like 127.0.0.1:9323")


def _tls(config: Config) -> None:
    tls = config.tls
    if not tls.enabled:
        return
    wanted = [("tlscert", tls.cert), ("tlskey", tls.key), *([("tlscacert", tls.ca)] if tls.verify else [])]
    for key, path in wanted:
        if not path:
            raise BadOption(f"{'tlsverify' if tls.verify else 'tls'} is on, but {key} is not set: name a PEM file "
                            f"with {key}, or turn TLS off")
        _readable(key, path)
    try:
        listeners.tls_context(tls)
    except (OSError, ValueError) as error:
        raise BadOption(f"{', '.join(f'{key}: {path!r}' for key, path in wanted)} cannot be used together: {error}: "
                        "want a certificate, the key that belongs to it and its CA, as PEM") from None


def _readable(key: str, path: str) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise _bad(key, path, f"cannot be read: {error.strerror}: name a file that is there") from None


def _bridge(config: Config) -> None:
    bip = None
    if config.bip:
        bip = _parsed(ipaddress.IPv4Interface, "bip", config.bip, "is no IPv4 address with a prefix like 172.30.0.1/16")
        if bip.network.prefixlen > _LONGEST_PREFIX:
            raise _bad("bip", config.bip, "leaves no room for containers: want ADDRESS/PREFIX with a prefix of at most "
                                          f"{_LONGEST_PREFIX}")
        if bip.ip in (bip.network.network_address, bip.network.broadcast_address):
            raise _bad("bip", config.bip, f"is no host's address: {bip.network[1]}/{bip.network.prefixlen} is one")
    if config.fixed_cidr:
        within = _parsed(ipaddress.IPv4Network, "fixed-cidr", config.fixed_cidr, "is no IPv4 subnet like 172.30.8.0/24")
        if bip is None:
            raise _bad("fixed-cidr", config.fixed_cidr, "says nothing without the bridge's subnet: set bip, too")
        if not within.subnet_of(bip.network):
            raise _bad("fixed-cidr", config.fixed_cidr, f"is not inside the subnet of bip {config.bip}")
    if config.mtu and config.mtu not in _MTU:
        raise _bad("mtu", config.mtu, f"is out of range: want {_MTU.start} to {_MTU.stop - 1}, or 0 for the host's")


def _pools(config: Config) -> None:
    seen: list[ipaddress.IPv4Network] = []
    for pool in config.default_address_pools:
        base = _parsed(ipaddress.IPv4Network, "default-address-pools", pool.base, "is no IPv4 base like 10.200.0.0/16")
        if not isinstance(pool.size, int) or not base.prefixlen <= pool.size <= _LONGEST_PREFIX:
            raise _bad("default-address-pools", f"base={pool.base},size={pool.size}",
                       f"has a wrong size: want the prefix length of its subnets, {base.prefixlen} to "
                       f"{_LONGEST_PREFIX}")
        for other in seen:
            if other.overlaps(base):
                raise _bad("default-address-pools", pool.base, f"overlaps {other}: leave one out")
        seen.append(base)


def _addresses(config: Config) -> None:
    single = (("ip", config.default_bind_ip), ("host-gateway-ip", config.host_gateway_ip))
    for key, value in (*single, *(("dns", server) for server in config.dns)):
        if value:
            _parsed(ipaddress.ip_address, key, value, "is no IP address like 192.0.2.53")
    for domain in config.dns_search:
        if domain != "." and not all(_is_label(part) for part in domain.removesuffix(".").split(".")):
            raise _bad("dns-search", domain, "is no domain like example.com")
    for option in config.dns_opts:
        if not option or any(character.isspace() for character in option):
            raise _bad("dns-opts", option, "is no option of resolv.conf(5) like ndots:2")


def _is_label(text: str) -> bool:
    return 0 < len(text) < 64 and all(character.isalnum() or character in "-_" for character in text)


def _registries(config: Config) -> None:
    """The registry client takes its time to load: only who has set something waits for it."""
    if not (config.registry_mirrors or config.insecure_registries or config.http_proxy or config.https_proxy):
        return
    from barque.image.client.hosts import HostConfig
    from barque.image.client.proxies import Proxies

    def proxy(value: str) -> Proxies:
        return Proxies(value)

    def mirror(value: str) -> HostConfig:
        return HostConfig(mirrors=(value,))

    def insecure(value: str) -> HostConfig:
        return HostConfig(insecure=(value,))

    tried: tuple[tuple[str, tuple[str, ...], Callable[[str], object]], ...] = (
        ("registry-mirrors", config.registry_mirrors, mirror),
        ("insecure-registries", config.insecure_registries, insecure),
        ("http-proxy", (config.http_proxy,), proxy), ("https-proxy", (config.https_proxy,), proxy))
    for key, values, make in tried:
        for value in values:
            try:
                make(value)
            except (BarqueError, ValueError) as error:
                raise BadOption(f"{key}: {error}") from None


def _limits(config: Config) -> None:
    for name, (soft, hard) in config.default_ulimits.items():
        if f"RLIMIT_{name.upper()}" not in NUMBERS:
            known = ", ".join(sorted(number.removeprefix("RLIMIT_").lower() for number in NUMBERS))
            raise _bad("default-ulimits", name, f"is no limit: want one of {known}")
        if hard != -1 and (soft == -1 or soft > hard):
            raise _bad("default-ulimits", f"{name}={soft}:{hard}", "has a soft limit above the hard one: lower the "
                                                                  "first or raise the second")
    if config.default_shm_size <= 0:
        raise _bad("default-shm-size", config.default_shm_size, "is no size like 64m")
    if config.cgroup_driver == "systemd" and config.cgroup_parent and not config.cgroup_parent.endswith(".slice"):
        raise _bad("cgroup-parent", config.cgroup_parent, 'is no slice: with systemd it is named like "xxx.slice"')
    values: dict[str, str] = {}
    for label in config.labels:
        key, _, value = label.partition("=")
        if values.setdefault(key, value) != value:
            raise _bad("labels", label, f"contradicts {key}={values[key]}: leave one out")


def _programs(config: Config) -> None:
    for name, runtime in config.runtimes.items():
        _executable(f"runtimes: {name}", runtime.path)
    if config.init_path:
        _executable("init-path", config.init_path)


def _executable(key: str, path: str) -> None:
    if not path:
        raise _bad(key, path, "names no program: give its path")
    if shutil.which(path) is None:
        why = "cannot be executed" if os.path.exists(path) else "is not there"
        raise _bad(key, path, f"{why}: name a program")


def _files(config: Config) -> None:
    if config.seccomp_profile not in ("", "builtin", "unconfined"):
        _readable("seccomp-profile", config.seccomp_profile)
        _refused_by(_seccomp, "seccomp-profile", config.seccomp_profile)
    if config.signature_policy:
        _readable("signature-policy", config.signature_policy)
        _refused_by(_policy, "signature-policy", config.signature_policy)
    for key, path in (("data-root", config.data_root), ("exec-root", config.exec_root),
                      ("pidfile", os.path.dirname(config.pidfile)), ("log-file", os.path.dirname(config.log_file))):
        above = _innermost(path) if path else "/"
        if not os.path.isdir(above):
            raise _bad(key, path, f"cannot be made: {above} is no directory")
    if config.log_file and not os.path.isdir(os.path.dirname(os.path.abspath(config.log_file))):
        raise _bad("log-file", config.log_file, "has no directory: make it first")


def _innermost(path: str) -> str:
    """What is there of ``path``."""
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _refused_by(read: Callable[[str], object], key: str, path: str) -> None:
    try:
        read(path)
    except (BarqueError, ValueError) as error:
        raise _bad(key, path, f"is not as it should be: {error}") from None


def _seccomp(path: str) -> object:
    from barque.runtime.seccomp_profile import docker_profile

    with open(path, "rb") as file:
        return docker_profile(file.read(), frozenset())


def _policy(path: str) -> object:
    from barque.image.trust.policy import load

    return load(path)
