"""What a client asks of a build, read from the query and the headers of ``POST /build``."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from barque.api.requests import flag, integer
from barque.build.options import OUTPUTS, Attestations, BindMount, BuildOptions, Limits, Output
from barque.errors import InvalidArgument, Unsupported
from barque.image.client.auth import Credentials, decode_body
from barque.oci import go_json
from barque.oci.platform import parse as parse_platform
from barque.oci.reference import Reference, parse

#: What an output may say of itself.
_ATTRS = {"local": {"dest"}, "tar": {"dest"}, "oci": {"dest", "name", "tar"}, "docker": {"dest", "name", "tar"},
          "image": {"name", "push"}, "registry": {"name", "push"}}
_PROVENANCE = {"": "min", "true": "min", "1": "min", "mode=min": "min", "mode=max": "max", "false": "", "0": ""}

#: Where a context of BuildKit's comes from by the client's session, which the protocol of docs/build.md is for.
_FROM_SESSION = ("client-session", "upload-request")


class _Ulimit(msgspec.Struct, rename="pascal"):
    name: str = ""
    soft: int = 0
    hard: int = 0


class _Output(msgspec.Struct, rename="pascal"):
    """As dockerd's API has it (types.ImageBuildOutput)."""

    type: str = ""
    attrs: dict[str, str] = {}


def read(request: web.Request) -> BuildOptions:
    """Raises InvalidArgument, and Unsupported for what is refused."""
    query = request.query
    # Some clients say 2 and send their context all the same; what is built with either is the same here.
    if query.get("version", "1") == "2" and query.get("remote", "") in _FROM_SESSION:
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
        credentials=_credentials(request), allow_insecure=flag(request, "allowinsecure"),
        cache_to=tuple(map(_cache_target, _json(query, "cacheto", list[str]) or ())),
        binds=tuple(map(_bind, _json(query, "binds", list[str]) or ())),
        keep_failed=_on_failure(query.get("onfailure", "")), squash=flag(request, "squash"),
        outputs=tuple(_output(item) for item in _json(query, "outputs", list[_Output]) or ()),
        attestations=Attestations(flag(request, "sbom"), _provenance(query.get("provenance", "false"))),
        trace=flag(request, "trace"))


def _output(item: _Output) -> Output:
    kind, attrs = item.type, item.attrs
    if kind not in OUTPUTS:
        raise InvalidArgument(f"unknown output type {kind!r}: it is one of {', '.join(OUTPUTS)}")
    for name in sorted(attrs.keys() - _ATTRS[kind]):
        raise Unsupported(f"an output of type {kind} cannot be told {name}")
    for text in filter(None, attrs.get("name", "").split(",")):
        _tag(text)
    return Output(kind, attrs, sent=kind in ("local", "tar", "oci") or (kind == "docker" and "dest" in attrs))


def _cache_target(text: str) -> str:
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    kind = fields.get("type")
    if kind not in ("registry", "local", "inline") or fields.get("mode", "min") not in ("min", "max"):
        raise InvalidArgument(f"invalid cache target {text}: type is registry, local or inline, mode min or max")
    for name in sorted(fields.keys() - {"type", "mode", "ref", "dest"}):
        raise Unsupported(f"a build cache cannot be told {name}")
    if kind == "registry":
        parse(fields.get("ref", ""))
    return text


def _bind(text: str) -> BindMount:
    """``/of/the/host:/in/the/container[:ro|rw]``."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source.startswith("/") or not target.startswith("/") or mode not in ("", "ro", "rw"):
        raise InvalidArgument(f"invalid volume of a build: {text}: it is /HOST/PATH:/CONTAINER/PATH[:ro]")
    return BindMount(source, target, mode == "ro")


def _on_failure(text: str) -> bool:
    if text not in ("", "remove", "keep"):
        raise InvalidArgument(f"invalid value {text!r} for what to do on failure: it is keep or remove")
    return text == "keep"


def _provenance(text: str) -> str:
    if text not in _PROVENANCE:
        raise InvalidArgument(f"invalid provenance {text!r}: it is true, false, mode=min or mode=max")
    return _PROVENANCE[text]


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
