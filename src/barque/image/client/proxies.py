"""Which proxy a request goes through: HTTP_PROXY, HTTPS_PROXY and NO_PROXY as Go's programs read them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from barque.errors import InvalidArgument


class InvalidProxy(InvalidArgument):
    text = "invalid proxy address {value!r}: want http://[user:password@]host[:port]"


def _with_scheme(value: str) -> str:
    return value if "://" in value or not value else f"http://{value}"


@dataclass(frozen=True)
class Proxies:
    """``http`` and ``https`` are for requests of those schemes, "" for none.

    ``bypass``, separated by commas: ``*``, addresses, networks, names (with all below them), ``.name`` (only those
    below it), each with ``:port`` where it is for that one alone. This machine is always asked directly.
    """

    http: str = ""
    https: str = ""
    bypass: str = ""

    def __post_init__(self) -> None:
        for value in (self.http, self.https):
            parts = urlsplit(_with_scheme(value))
            # A proxy that is spoken to by TLS would need a second TLS within it, which asyncio does not do.
            if value and (parts.scheme != "http" or not parts.hostname):
                raise InvalidProxy(value=without_password(value))

    def of(self, scheme: str, authority: str) -> str | None:
        """The proxy's URL, or None where ``authority`` (host with or without port) is asked directly."""
        chosen = self.https if scheme == "https" else self.http
        parts = urlsplit("//" + authority)
        port = parts.port or (443 if scheme == "https" else 80)
        if not chosen or _is_local(parts.hostname or "") or self._bypassed(parts.hostname or "", port):
            return None
        return _with_scheme(chosen)

    def _bypassed(self, host: str, port: int) -> bool:
        return any(_covers(word.strip().lower(), host, port) for word in self.bypass.split(",") if word.strip())


NO_PROXIES = Proxies()


def without_password(value: str) -> str:
    """As docker shows it."""
    parts = urlsplit(_with_scheme(value))
    return parts._replace(netloc="xxxxx:xxxxx@" + parts.netloc.rpartition("@")[2]).geturl() if parts.username else value


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_local(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _covers(word: str, host: str, port: int) -> bool:
    if word == "*":
        return True
    address = _address(host)
    if "/" in word:
        try:
            return address is not None and address in ipaddress.ip_network(word, strict=False)
        except ValueError:
            return False
    name = word
    if _address(word) is None:
        found = urlsplit("//" + word)
        try:
            wanted = found.port
        except ValueError:
            return False
        name = found.hostname or ""
        if wanted not in (None, port):
            return False
    if address is not None or _address(name) is not None:
        return address is not None and address == _address(name)
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith("." + name)
