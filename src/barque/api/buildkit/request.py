"""What a client of BuildKit asks for, as the options of a build: attributes of the frontend ``dockerfile.v0``,
exporters, caches (moby/buildkit ``frontend/dockerui/config.go``, ``exporter/*``). The rest is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from barque.api.buildkit.messages import CacheOptionsEntry, Exporter
from barque.build.options import BuildOptions, Limits, Output
from barque.errors import InvalidArgument, Unsupported
from barque.oci import go_json
from barque.oci.platform import parse as parse_platform
from barque.oci.reference import Reference, parse

_ARGUMENT, _LABEL, _CONTEXT = "build-arg:", "label:", "context:"
#: Say where files come from (read elsewhere), or nothing that changes the result.
_ELSEWHERE = frozenset({"filename", "context", "dockerfilekey", "source", "cmdline", "frontend.caps", "requestid"})
_ELSEWHERE_PREFIXES = ("vcs:", "local-sessionid:", "sharedkey:localdir:", "input:")
_LIMITS = {"memory": "memory", "memswap": "memory_swap", "cpushares": "cpu_shares", "cpuperiod": "cpu_period",
           "cpuquota": "cpu_quota", "shm-size": "shm_size"}
#: Exporters by what they are called here. "moby" is dockerd's own.
_IMAGES = ("moby", "image")
_ARCHIVES = ("local", "tar", "oci", "docker")
#: What they may be told. That a client pushes what was built here itself, and that it is here afterwards, is so anyway.
_EXPORTER_ATTRS = {"name", "push", "load", "unpack", "store", "mode", "tar"}
_RESOLVE_MODES = {"": False, "default": False, "local": False, "pull": True}


def options(attrs: Mapping[str, str], exporters: Sequence[Exporter], imports: Sequence[CacheOptionsEntry],
            exports: Sequence[CacheOptionsEntry], entitlements: Sequence[str]) -> BuildOptions:
    """Raises InvalidArgument, Unsupported."""
    left = {name: value for name, value in attrs.items()
            if name not in _ELSEWHERE and not name.startswith(_ELSEWHERE_PREFIXES)}
    arguments: dict[str, str | None] = {**_prefixed(left, _ARGUMENT)}
    labels = _prefixed(left, _LABEL)
    platform = left.pop("platform", "")
    if "," in platform or left.pop("multi-platform", "").lower() in ("1", "t", "true"):
        raise Unsupported("a build for several platforms at once is not supported: build for one after the other")
    mode = left.pop("image-resolve-mode", "")
    if mode not in _RESOLVE_MODES:
        raise InvalidArgument(f"invalid image-resolve-mode: {mode}")
    stages = left.get("no-cache", "")
    if stages:
        raise Unsupported(f"no-cache for some stages only ({stages}) is not supported")
    outputs = tuple(map(_output, exporters))
    epoch = arguments.get("SOURCE_DATE_EPOCH") or ""
    found = BuildOptions(
        tags=tuple(name for exporter in exporters if exporter.type in _IMAGES for name in _names(exporter)),
        target=left.pop("target", ""), arguments=arguments, labels=labels,
        platform=parse_platform(platform) if platform else None, pull=_RESOLVE_MODES[mode],
        no_cache=left.pop("no-cache", None) is not None, network=left.pop("force-network-mode", ""),
        extra_hosts=_hosts(left.pop("add-hosts", "")), limits=_limits(left),
        allow_insecure="security.insecure" in entitlements, epoch=_number("SOURCE_DATE_EPOCH", epoch) if epoch else -1,
        cache_from=_sources([*imports, *_imports(left)]), cache_to=tuple(map(_target, exports)),
        outputs=outputs, trace=True)
    for name in sorted(left):
        if name.startswith(_CONTEXT):
            raise Unsupported(f"additional build contexts are not supported ({name.removeprefix(_CONTEXT)})")
        raise Unsupported(f"the build option {name} is not supported")
    return found


def _prefixed(left: dict[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): left.pop(name) for name in [*left] if name.startswith(prefix)}


def _hosts(text: str) -> tuple[str, ...]:
    """``name=address,...`` as docker's ``name:address``."""
    return tuple(":".join(item.partition("=")[::2]) for item in text.split(",") if item)


def _limits(left: dict[str, str]) -> Limits:
    numbers: dict[str, Any] = {
        ours: _number(theirs, left.pop(theirs)) for theirs, ours in _LIMITS.items() if theirs in left}
    ulimits = []
    for item in left.pop("ulimit", "").split(","):
        if item:
            name, _, values = item.partition("=")
            soft, _, hard = values.partition(":")
            ulimits.append((name, _number(name, soft), _number(name, hard or soft)))
    return Limits(**numbers, cpuset_cpus=left.pop("cpusetcpus", ""), cpuset_mems=left.pop("cpusetmems", ""),
                  cgroup_parent=left.pop("cgroup-parent", ""), ulimits=tuple(ulimits))


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f"invalid value for {name}: {text}") from None


def _imports(left: dict[str, str]) -> list[CacheOptionsEntry]:
    """``cache-imports`` is the JSON of a list, ``cache-from`` a list of references."""
    text = left.pop("cache-imports", "")
    try:
        entries = go_json.decode(text, list[dict[str, object]]) if text else []
    except go_json.InvalidJSON as error:
        raise InvalidArgument(f"failed to unmarshal cache-imports: {error.message}") from None
    found = []
    for entry in entries:
        attrs = entry.get("Attrs")
        found.append(CacheOptionsEntry(str(entry.get("Type", "")), {
            str(name): str(value) for name, value in attrs.items()} if isinstance(attrs, dict) else {}))
    return found + [CacheOptionsEntry("registry", {"ref": ref}) for ref in left.pop("cache-from", "").split(",") if ref]


def _sources(entries: Sequence[CacheOptionsEntry]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for entry in entries:
        if entry.type != "registry" or not entry.attrs.get("ref"):
            raise Unsupported(f"a build cache cannot be taken from type={entry.type}: it is type=registry,ref=NAME")
        found[f"type=registry,ref={entry.attrs['ref']}"] = None
    return tuple(found)


def _target(entry: CacheOptionsEntry) -> str:
    if entry.type == "inline":
        return "type=inline"
    if entry.type == "registry" and entry.attrs.get("ref") and entry.attrs.keys() <= {"ref", "mode"}:
        return f"type=registry,ref={entry.attrs['ref']},mode={entry.attrs.get('mode', 'min')}"
    raise Unsupported(f"a build cache cannot be given to type={entry.type}: it is inline, or registry with ref, mode")


def _output(exporter: Exporter) -> Output:
    for name in sorted(exporter.attrs.keys() - _EXPORTER_ATTRS):
        raise Unsupported(f"an output of type {exporter.type} cannot be told {name}")
    if exporter.type in _IMAGES:
        return Output("image")
    if exporter.type not in _ARCHIVES:
        raise Unsupported(f"an output of type {exporter.type} is not supported")
    if exporter.attrs.get("mode", "copy") != "copy":
        raise Unsupported(f"an output of type {exporter.type} cannot be told mode={exporter.attrs['mode']}")
    return Output(exporter.type, {"name": exporter.attrs.get("name", "")}, sent=True)


def _names(exporter: Exporter) -> list[Reference]:
    return [parse(text) for text in exporter.attrs.get("name", "").split(",") if text]
