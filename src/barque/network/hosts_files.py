"""The contents of a container's /etc/hostname, /etc/hosts and /etc/resolv.conf, as dockerd writes them. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from barque.errors import InvalidArgument

#: dockerd's documented default, for hosts whose own resolvers are all on loopback, where no container can reach them.
DEFAULT_DNS4 = ("8.8.8.8", "8.8.4.4")
DEFAULT_DNS6 = ("2001:4860:4860::8888", "2001:4860:4860::8844")
#: Where the engine's own name server answers inside containers.
OWN_SERVER = "127.0.0.11"
RESOLV_CONF = "/etc/resolv.conf"
#: systemd-resolved's list of the real upstream servers, behind its stub on 127.0.0.53.
RESOLVED_UPSTREAMS = "/run/systemd/resolve/resolv.conf"
_RESOLVED_STUB = "127.0.0.53"

_LOCALHOST = (
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::", "ip6-localnet"),
    ("ff00::", "ip6-mcastprefix"),
    ("ff02::1", "ip6-allnodes"),
    ("ff02::2", "ip6-allrouters"),
)


def hostname(name: str) -> bytes:
    return name.encode() + b"\n"


def hosts(own: Iterable[tuple[str, Sequence[str]]], extra: Iterable[str], *, host_gateway: str | None = None,
          base: bytes | None = None) -> bytes:
    """/etc/hosts: localhost, or ``base`` (the host's own file, with its network), then ``extra``, then ``own``.

    ``own`` are the container's addresses with their names, the full one first; ``extra`` are docker's ``NAME:IP``,
    where ``NAME:host-gateway`` means ``host_gateway``. Raises InvalidArgument for what is neither.
    """
    lines = [f"{address}\t{names}" for address, names in _LOCALHOST]
    start = b"" if base is None else (base if base.endswith(b"\n") or not base else base + b"\n")
    if base is not None:
        lines = []
    lines += [f"{address}\t{name}" for name, address in (_extra_host(text, host_gateway) for text in extra)]
    lines += [f"{address}\t{' '.join(names)}" for address, names in own]
    return start + "".join(line + "\n" for line in lines).encode()


def _extra_host(text: str, host_gateway: str | None) -> tuple[str, str]:
    name, colon, address = text.partition(":")
    if not colon or not name:
        raise InvalidArgument(f'bad format for add-host: "{text}"')
    if any(character.isspace() for character in name):
        raise InvalidArgument(f'bad format for add-host: "{text}"')
    if address == "host-gateway":
        if host_gateway is None:
            raise InvalidArgument("unable to derive the IP value for host-gateway")
        return name, host_gateway
    try:
        return name, str(ipaddress.ip_address(address.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise InvalidArgument(f'invalid IP address in add-host: "{address}"') from None


def resolv_source(text: str) -> str:
    """Which file of the host lists its resolvers, given the text of /etc/resolv.conf."""
    return RESOLVED_UPSTREAMS if _values(text, "nameserver") == [_RESOLVED_STUB] else RESOLV_CONF


def resolv_conf(host_text: str, dns: Sequence[str] = (), search: Sequence[str] = (), options: Sequence[str] = (), *,
                loopback: bool = False, ipv6: bool = False) -> bytes:
    """/etc/resolv.conf out of the host's: each of ``dns``, ``search`` and ``options`` replaces the host's values.

    Resolvers on loopback are left out unless ``loopback`` (the container shares the host's network), those with IPv6
    addresses unless ``ipv6`` (the container has it); if none is left, dockerd's defaults stand in. A ``search`` of "."
    means none at all.
    """
    servers = list(dns)
    if not servers:
        servers = [server for server in _values(host_text, "nameserver") if loopback or _reachable(server, ipv6)]
    if not servers and not loopback:
        servers = [*DEFAULT_DNS4, *(DEFAULT_DNS6 if ipv6 else ())]
    domains = list(search) or _last(host_text, "search", "domain")
    if domains == ["."]:
        domains = []
    settings = list(options) or [word for line in _lines(host_text, "options") for word in line]
    lines = [f"nameserver {server}" for server in servers]
    if domains:
        lines.append("search " + " ".join(domains))
    if settings:
        lines.append("options " + " ".join(settings))
    return "".join(line + "\n" for line in lines).encode()


def own_resolv_conf(host_text: str, search: Sequence[str] = (), options: Sequence[str] = ()) -> bytes:
    """As :func:`resolv_conf`, for containers that ask the engine's name server: names without a dot go there first."""
    settings = list(options) or [word for line in _lines(host_text, "options") for word in line]
    if not any(word.startswith("ndots:") for word in settings):
        settings.append("ndots:0")
    return resolv_conf(host_text, (OWN_SERVER,), search, settings)


def _reachable(server: str, ipv6: bool) -> bool:
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return False
    return not address.is_loopback and (address.version == 4 or ipv6)


def _lines(text: str, *keywords: str) -> list[list[str]]:
    """The words behind the keyword, for each line that has one of ``keywords``; resolv.conf(5)."""
    split = [line.split() for line in text.splitlines() if line[:1] not in ("#", ";")]
    return [words[1:] for words in split if len(words) > 1 and words[0] in keywords]


def _values(text: str, keyword: str) -> list[str]:
    return [words[0] for words in _lines(text, keyword)]


def _last(text: str, *keywords: str) -> list[str]:
    """``search`` and ``domain`` exclude each other, the last one wins."""
    found = _lines(text, *keywords)
    return found[-1] if found else []
