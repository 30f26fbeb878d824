"""Mirrors of any registry: ``<certificates directory>/<host[:port]>/hosts.toml``, a part of containerd's format.

    server = "https://registry.example.com"          # optional: what stands at the end of the list

    [host."https://mirror.example.com"]               # tried in this order
      capabilities = ["pull", "resolve"]              # pushes go to the registry itself
      skip_verify = false
      [host."https://mirror.example.com".rewrite]     # optional: of the repository's path, the first that fits
        "^library/(.*)" = "hub/$1"

``_default/hosts.toml`` stands for all registries without a file. A key that is not known here is an error, not ignored.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from barque.errors import InvalidArgument

_KEYS = {"capabilities": list, "skip_verify": bool, "rewrite": dict}
_CAPABILITIES = ("pull", "resolve")
_GROUP = re.compile(r"\$(\d)")
_DEFAULT = "_default"


class BadHostsFile(InvalidArgument):
    text = "{path}: {reason}"


@dataclass(frozen=True, slots=True)
class Rewrite:
    pattern: re.Pattern[str]
    replacement: str

    def apply(self, path: str) -> str | None:
        match = self.pattern.search(path)
        return path[:match.start()] + match.expand(self.replacement) + path[match.end():] if match else None


@dataclass(frozen=True, slots=True)
class MirrorRule:
    url: str
    verify: bool
    rewrites: tuple[Rewrite, ...]


@dataclass(frozen=True, slots=True)
class HostRules:
    """``server``: the registry's own base URL, "" for the ordinary one."""

    server: str = ""
    mirrors: tuple[MirrorRule, ...] = ()


def load(directory: str, host: str) -> HostRules:
    """What the files say about ``host``; no rules where there is none. Raises :class:`BadHostsFile`."""
    for name in (host, _DEFAULT):
        path = os.path.join(directory, name, "hosts.toml")
        try:
            with open(path, "rb") as file:
                return _rules(tomllib.load(file), path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except tomllib.TOMLDecodeError as error:
            raise BadHostsFile(path=path, reason=error) from None
    return HostRules()


def _rules(document: dict[str, Any], path: str) -> HostRules:
    for key in document:
        if key not in ("server", "host"):
            raise BadHostsFile(path=path, reason=f"unknown key {key!r}")
    hosts = document.get("host", {})
    if not isinstance(hosts, dict):
        raise BadHostsFile(path=path, reason="host is not a table")
    server = document.get("server", "")
    return HostRules(_url(server, path) if server else "",
                     tuple(_mirror(_url(url, path), table, path) for url, table in hosts.items()))


def _mirror(url: str, table: Any, path: str) -> MirrorRule:
    for key, value in table.items() if isinstance(table, dict) else [(url, table)]:
        if not isinstance(value, _KEYS.get(key, ())):
            reason = f"unknown key {key!r}" if key not in _KEYS else f"{key} is no {_KEYS[key].__name__}"
            raise BadHostsFile(path=path, reason=f"{url}: {reason}")
    capabilities = table.get("capabilities", ["pull", "resolve"])
    if sorted(map(str, capabilities)) != sorted(_CAPABILITIES):
        raise BadHostsFile(path=path, reason=f"{url}: a mirror has the capabilities pull and resolve, both")
    return MirrorRule(url, not table.get("skip_verify", False),
                      tuple(_rewrite(pattern, text, path) for pattern, text in table.get("rewrite", {}).items()))


def _rewrite(pattern: str, replacement: Any, path: str) -> Rewrite:
    try:
        rewrite = Rewrite(re.compile(pattern, re.ASCII), _GROUP.sub(r"\\\1", str(replacement)))
        if any(int(group) > rewrite.pattern.groups for group in _GROUP.findall(str(replacement))):
            raise BadHostsFile(path=path, reason=f"rewrite {pattern!r}: {replacement!r} names no group of it")
        return rewrite
    except re.error as error:
        raise BadHostsFile(path=path, reason=f"rewrite {pattern!r}: {error}") from None


def _url(text: Any, path: str) -> str:
    url = text if isinstance(text, str) else ""
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise BadHostsFile(path=path, reason=f"{text!r} is not the address of a registry")
    return parts.geturl().rstrip("/")
