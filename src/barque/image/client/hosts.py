"""Which addresses stand behind a registry's name, and how far each may be trusted."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from barque.errors import InvalidArgument
from barque.image.client.hosts_files import HostRules, MirrorRule, Rewrite, load
from barque.image.client.proxies import NO_PROXIES, Proxies
from barque.oci.reference import DEFAULT_DOMAIN

#: Docker Hub serves its images under another name than the one it has in references.
HUB_HOST = "registry-1.docker.io"
Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
_LOOPBACK: Networks = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


class InvalidMirror(InvalidArgument):
    text = "invalid mirror: {reason} in {value!r}"


class InvalidInsecureRegistry(InvalidArgument):
    text = "insecure registry {value} is not valid: {reason}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One base URL (``https://host:port[/path]``, no slash at the end). ``verify``: whether TLS must be valid.

    ``rewrites``: how the paths of repositories change on the way to a mirror; the first one that fits.
    """

    url: str
    host: str
    verify: bool = True
    mirror: bool = False
    rewrites: tuple[Rewrite, ...] = ()

    def path(self, repository: str) -> str:
        found = (rewrite.apply(repository) for rewrite in self.rewrites)
        return next((path for path in found if path is not None), repository)

    @property
    def plain(self) -> bool:
        return self.url.startswith("http:")


def split_host(authority: str) -> str:
    """The host of ``host[:port]`` or ``[v6][:port]``."""
    return urlsplit("//" + authority).hostname or ""


@dataclass(frozen=True)
class HostConfig:
    """``registry-mirrors``, ``insecure-registries`` (hosts, host:port, CIDR), and where certificates are.

    Loopback addresses are always insecure-allowed, as with dockerd: plain HTTP and unverified TLS may be used there.
    """

    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    certs_dir: str = ""
    proxies: Proxies = NO_PROXIES

    def __post_init__(self) -> None:
        for mirror in self.mirrors:
            parts = urlsplit(mirror)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise InvalidMirror(reason="must use either 'https://' or 'http://' and a host", value=mirror)
            if parts.query or parts.fragment or parts.username:
                raise InvalidMirror(reason="query, fragment or password", value=mirror)
        for value in self.insecure:
            if "://" in value:
                raise InvalidInsecureRegistry(value=value, reason="should not contain '://'")
        _networks(self.insecure)

    async def endpoints(self, domain: str, *, push: bool = False) -> list[Endpoint]:
        """Where to try, in order: mirrors, then the registry itself.

        ``registry-mirrors`` serve pulls from docker.io only; ``hosts.toml`` names those of any registry.
        """
        # Two small files of this machine, mostly absent: a thread would take longer than to look.
        rules = load(self.certs_dir, domain) if self.certs_dir else HostRules()
        found = [] if push else [_by_rule(rule) for rule in rules.mirrors]
        if domain == DEFAULT_DOMAIN:
            found += [] if push else [self._mirror(mirror) for mirror in self.mirrors]
        return found + await self._own(domain, rules.server)

    async def _own(self, domain: str, server: str) -> list[Endpoint]:
        if server:
            host = urlsplit(server).netloc
            return [Endpoint(server, host, verify=not await self.is_insecure(host))]
        if domain == DEFAULT_DOMAIN:
            return [Endpoint(f"https://{HUB_HOST}", HUB_HOST)]
        if not await self.is_insecure(domain):
            return [Endpoint(f"https://{domain}", domain)]
        return [Endpoint(f"https://{domain}", domain, verify=False), Endpoint(f"http://{domain}", domain, verify=False)]

    def _mirror(self, url: str) -> Endpoint:
        parts = urlsplit(url)
        return Endpoint(url.rstrip("/"), parts.netloc, verify=parts.netloc not in self.insecure, mirror=True)

    async def is_insecure(self, authority: str) -> bool:
        """Whether plain HTTP and unverified TLS are allowed for ``host[:port]``. Names are resolved only for CIDRs."""
        host = split_host(authority)
        if authority in self.insecure or host in self.insecure or host == "localhost":
            return True
        networks = (*_LOOPBACK, *_networks(self.insecure))
        try:
            addresses = [ipaddress.ip_address(host)]
        except ValueError:
            if len(networks) == len(_LOOPBACK):
                return False
            addresses = await _resolve(host)
        return any(address in network for address in addresses for network in networks)

    def tls_context(self, endpoint: Endpoint) -> ssl.SSLContext:
        """With ``certs_dir/<host[:port]>/{*.crt,*.cert+*.key}``: CAs, and client certificates with their keys."""
        context = ssl.create_default_context()
        if not endpoint.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        directory = os.path.join(self.certs_dir, endpoint.host) if self.certs_dir else ""
        for name in sorted(os.listdir(directory)) if directory and os.path.isdir(directory) else ():
            path = os.path.join(directory, name)
            if name.endswith(".crt"):
                context.load_verify_locations(cafile=path)
            elif name.endswith(".cert"):
                key = path.removesuffix(".cert") + ".key"
                if not os.path.exists(key):
                    raise InvalidArgument(f"missing key {os.path.basename(key)} for client certificate {name}. "
                                          "CA certificates must use the extension .crt")
                context.load_cert_chain(path, key)
        return context


def _by_rule(rule: MirrorRule) -> Endpoint:
    return Endpoint(rule.url, urlsplit(rule.url).netloc, verify=rule.verify, mirror=True, rewrites=rule.rewrites)


def _networks(values: Iterable[str]) -> Networks:
    found = []
    for value in values:
        if "/" in value:
            try:
                found.append(ipaddress.ip_network(value, strict=False))
            except ValueError as error:
                raise InvalidInsecureRegistry(value=value, reason=error) from None
    return tuple(found)


async def _resolve(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        answers = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers]
