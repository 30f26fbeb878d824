"""``POST /build`` and the build cache, with docker's parameters and stream."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import msgspec
from aiohttp import web

from barque.api.progress import stream
from barque.api.requests import flag, integer, json
from barque.api.streams import begin
from barque.build.options import BuildOptions, Limits
from barque.build.output import Send
from barque.engine import filters
from barque.errors import InvalidArgument, Unsupported
from barque.image.client.auth import Credentials, decode_body
from barque.oci import go_json
from barque.oci.platform import parse as parse_platform
from barque.oci.reference import Reference, parse

PRUNE_FILTERS = ("until", "unused-for")
#: Parameters that this builder cannot honour are refused where they ask for something.
_UNSUPPORTED = {
    "squash": "squash is only supported with experimental mode",
    "outputs": "outputs are only supported by clients that write them themselves",
}


class BuildBackend(Protocol):
    async def build(self, options: BuildOptions, body: AsyncIterator[bytes], send: Send) -> str: ...
    async def check(self, options: BuildOptions, body: AsyncIterator[bytes]) -> tuple[str, bool]: ...
    async def prune(self, *, everything: bool, keep: int, until: str) -> dict[str, Any]: ...


class _Ulimit(msgspec.Struct, rename="pascal"):
    name: str = ""
    soft: int = 0
    hard: int = 0


def routes(builds: BuildBackend) -> list[web.RouteDef]:
    handlers = _Handlers(builds)
    return [web.post("/build", handlers.build), web.post("/build/prune", handlers.prune),
            web.post("/build/cancel", handlers.cancel)]


class _Handlers:
    def __init__(self, builds: BuildBackend) -> None:
        self._builds = builds

    async def build(self, request: web.Request) -> web.StreamResponse:
        options = _options(request)
        if flag(request, "check"):
            return await self._check(request, options)
        return await stream(request, lambda send: self._builds.build(options, _body(request), send))

    async def _check(self, request: web.Request, options: BuildOptions) -> web.StreamResponse:
        """Our own ``check=1``: the report as a stream whose last message says whether something was found."""
        text, found = await self._builds.check(options, _body(request))
        response = await begin(request)
        for message in ({"stream": text}, {"aux": {"Findings": found}}):
            await response.write(msgspec.json.encode(message) + b"\r\n")
        return response

    async def prune(self, request: web.Request) -> web.StreamResponse:
        wanted = filters.parse(request.query.get("filters"), PRUNE_FILTERS)
        until = [*wanted.get("until", []), *wanted.get("unused-for", [])]
        if len(until) > 1:
            raise InvalidArgument("filters expect only one value")
        keep = integer(request, "keep-storage") or integer(request, "reserved-space") or 0
        return json(await self._builds.prune(everything=flag(request, "all"), keep=keep,
                                             until=until[0] if until else ""))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Builds here end when their client goes away; none has an id to cancel it by."""
        if not request.query.get("id"):
            raise InvalidArgument("build ID not provided")
        return web.Response(status=204)


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_any():
        yield chunk


def _options(request: web.Request) -> BuildOptions:
    """The whole query; raises InvalidArgument, Unsupported for what is refused."""
    query = request.query
    for name, reason in _UNSUPPORTED.items():
        if query.get(name, "") not in ("", "0", "false", "null", "[]"):
            raise Unsupported(reason)
    if query.get("version", "1") == "2":
        raise InvalidArgument("this engine has no BuildKit: build with DOCKER_BUILDKIT=0, or with barque build")
    if query.get("isolation", "") not in ("", "default"):
        raise InvalidArgument(f"Unsupported isolation: {query['isolation']!r}")
    platform = query.get("platform", "")
    arguments = _json(query, "buildargs", dict[str, str | None])
    return BuildOptions(
        tags=tuple(_tag(text) for text in query.getall("t", [])), dockerfile=query.get("dockerfile") or "Dockerfile",
        remote=query.get("remote", ""), target=query.get("target", ""), arguments=arguments or {},
        labels=_json(query, "labels", dict[str, str]) or {}, platform=parse_platform(platform) if platform else None,
        cache_from=tuple(_json(query, "cachefrom", list[str]) or ()), no_cache=flag(request, "nocache"),
        pull=flag(request, "pull"), remove=flag(request, "rm", default=True),
        quiet=flag(request, "q"), network=query.get("networkmode", ""),
        extra_hosts=tuple((_json(query, "extrahosts", list[str]) if query.get("extrahosts", "").startswith("[")
                           else query.getall("extrahosts", [])) or ()),
        limits=_limits(request), epoch=_epoch(arguments or {}), secrets=_secrets(request), ssh=_agents(request),
        credentials=_credentials(request),
        allow_insecure=flag(request, "allowinsecure"))


def _limits(request: web.Request) -> Limits:
    query = request.query
    ulimits = _json(query, "ulimits", list[_Ulimit]) or []
    security = query.get("securityopt", "")
    return Limits(
        memory=integer(request, "memory") or 0, memory_swap=integer(request, "memswap") or 0,
        cpu_shares=integer(request, "cpushares") or 0, cpu_period=integer(request, "cpuperiod") or 0,
        cpu_quota=integer(request, "cpuquota") or 0, cpuset_cpus=query.get("cpusetcpus", ""),
        cpuset_mems=query.get("cpusetmems", ""), cgroup_parent=query.get("cgroupparent", ""),
        shm_size=integer(request, "shmsize") or 0,
        ulimits=tuple((limit.name, limit.soft, limit.hard) for limit in ulimits),
        security_opt=tuple((_json(query, "securityopt", list[str]) or ()) if security.startswith("[") else ()))


def _json(query: Mapping[str, str], name: str, kind: Any) -> Any:
    """A parameter that is JSON; None where it is absent."""
    text = query.get(name, "")
    if not text or text == "null":
        return None
    try:
        return go_json.decode(text, kind)
    except go_json.InvalidJSON as error:
        raise InvalidArgument(f"error reading {name}: {error.message}") from None


def _tag(text: str) -> Reference:
    """A name for the image; a digest cannot be one."""
    reference = parse(text)
    if reference.digest is not None:
        raise InvalidArgument("build tag cannot contain a digest")
    return reference


def _epoch(arguments: Mapping[str, str | None]) -> int:
    text = arguments.get("SOURCE_DATE_EPOCH") or ""
    if not text:
        return -1
    if not (text.isascii() and text.isdecimal()) or len(text) > 11:
        raise InvalidArgument(f"invalid SOURCE_DATE_EPOCH: {text}")
    return int(text)


def _secrets(request: web.Request) -> dict[str, bytes]:
    """``X-Build-Secrets``: base64 of a JSON object of base64 values, since addresses end up in logs."""
    try:
        return {name: base64.b64decode(value, validate=True) for name, value in _header(request, "X-Build-Secrets")}
    except binascii.Error as error:
        raise InvalidArgument(f"X-Build-Secrets: {error}") from None


def _agents(request: web.Request) -> dict[str, str]:
    """``X-Build-SSH``: base64 of a JSON object from ids to paths of agents' sockets on this machine."""
    return dict(_header(request, "X-Build-SSH"))


def _credentials(request: web.Request) -> dict[str, Credentials]:
    """``X-Registry-Config``: base64 of a JSON object from registries, as docker's configuration names them."""
    found = {}
    for registry, entry in _header(request, "X-Registry-Config", Credentials):
        host = registry.removeprefix("https://").removeprefix("http://").partition("/")[0]
        credentials = decode_body(go_json.encode(entry))
        if credentials is not None:
            found["docker.io" if host == "index.docker.io" else host] = credentials
    return found


def _header(request: web.Request, name: str, kind: Any = str) -> list[tuple[str, Any]]:
    text = request.headers.get(name, "").rstrip("=").replace("-", "+").replace("_", "/")
    if not text:
        return []
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        found: dict[str, Any] = go_json.decode(data, dict[str, kind])
        return list(found.items())
    except (binascii.Error, go_json.InvalidJSON) as error:
        raise InvalidArgument(f"{name}: {error}") from None
