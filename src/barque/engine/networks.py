"""Networks as docker clients know them: create, list, inspect, remove, prune."""

from __future__ import annotations

import builtins
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from barque.engine import clock, filters, names
from barque.engine.network_options import CreateNetwork, config_spec, configured, to_spec
from barque.engine.network_reach import explain
from barque.engine.network_views import document
from barque.errors import BarqueError, Conflict, InvalidArgument, NotFound, PermissionDenied
from barque.network.model import Blockers, NetworkInfo, NetworkSpec, Sandbox
from barque.store.db import Documents

#: Every container that has a network now, as (its name, its sandbox); the container service supplies it.
Sandboxes = Callable[[], Iterable[tuple[str, Sandbox]]]
Emit = Callable[[str, str, str, Mapping[str, str]], None]

_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_PRUNE_FILTERS = ("label", "label!", "until")


class KernelNetworks(Protocol):
    """What this needs of :class:`barque.network.stack.Network`."""

    def networks(self) -> list[NetworkInfo]: ...
    async def create_network(self, spec: NetworkSpec) -> NetworkSpec: ...
    async def remove_networks(self, network_ids: Collection[str]) -> None: ...
    async def blockers(self) -> Blockers: ...


class NoSuchNetwork(NotFound):
    text = "network {ref} not found"


class Predefined(PermissionDenied):
    text = "{name} is a pre-defined network and cannot be removed"


class PredefinedName(PermissionDenied):
    text = "operation is not permitted on predefined {name} network"


class NameTaken(Conflict):
    text = "network with name {name} already exists"


class ConfigMissing(NotFound):
    text = 'configuration network "{name}" does not exist'


class ConfigInUse(PermissionDenied):
    text = 'configuration network "{name}" is in use'


class ActiveEndpoints(PermissionDenied):
    text = "error while removing network: network {name} has active endpoints ({endpoints})"


class NetworkService:
    """Networks of one engine."""

    def __init__(self, network: KernelNetworks, documents: Documents[NetworkSpec], sandboxes: Sandboxes, emit: Emit
                 ) -> None:
        self._network = network
        self._documents = documents
        self._sandboxes = sandboxes
        self._emit = emit

    async def stored(self) -> builtins.list[NetworkSpec]:
        """The networks that users made, in the order of their making: for the kernel's side at boot."""
        return sorted((spec for _, spec in await self._documents.all()), key=lambda spec: spec.created)

    def list(self, wanted: Mapping[str, Sequence[str]]) -> builtins.list[dict[str, Any]]:
        """All networks that pass every filter (any value of it), without their containers, as dockerd lists them."""
        for key in wanted:
            if key not in _FILTERS:
                raise InvalidArgument(f"invalid filter '{key}'")
        used = self._used()
        return [document(info, ()) for info in self._network.networks()
                if all(_passes(info, key, values, used) for key, values in wanted.items())]

    def inspect(self, ref: str) -> dict[str, Any]:
        """One network by name, id or the unambiguous beginning of its id; raises NoSuchNetwork."""
        return document(find(self._network.networks(), ref), self._sandboxes())

    async def explain(self, ref: str) -> dict[str, Any]:
        """Who can reach what on one network; raises NoSuchNetwork."""
        info = find(self._network.networks(), ref)
        return explain(info, self._sandboxes(), await self._network.blockers())

    async def create(self, body: CreateNetwork) -> tuple[str, str]:
        """Make a network; returns its id, and a warning if there is one. Raises BarqueErrors in dockerd's words."""
        if body.name == "default":  # what containers' network mode is without a word, and no network's name
            raise PredefinedName(name=body.name)
        for info in self._network.networks():
            if info.name == body.name:
                raise PredefinedName(name=body.name) if info.spec is None else NameTaken(name=body.name)
        spec = await self._network.create_network(self._spec(body))
        try:
            await self._documents.put(spec.id, spec.name, spec)
        except BaseException:
            await self._network.remove_networks([spec.id])
            raise
        self._emit("network", "create", spec.id, {"name": spec.name, "type": spec.driver})
        return spec.id, await self._warning(spec)

    async def _warning(self, spec: NetworkSpec) -> str:
        if spec.driver != "bridge" or spec.internal:
            return ""
        chains = (await self._network.blockers()).forward
        if not chains:
            return ""
        return ("Containers reach other machines only where the host's firewall lets them: "
                f"{chains[0]} drops by default.")

    def _spec(self, body: CreateNetwork) -> NetworkSpec:
        if body.config_only:
            return config_spec(body, names.new_id())
        source = (body.config_from or {}).get("Network", "")
        if source:
            config = next((info.spec for info in self._network.networks() if info.name == source), None)
            if config is None or not config.config_only:
                raise ConfigMissing(name=source)
            body = configured(body, config)
        return to_spec(body, names.new_id())

    async def remove(self, ref: str) -> None:
        """Remove a network that no container is on; raises NoSuchNetwork, Predefined, ActiveEndpoints, ConfigInUse."""
        info = find(self._network.networks(), ref)
        if info.spec is None:
            raise Predefined(name=info.name)
        active = [f'name:"{name}" id:"{endpoint.endpoint_id[:12]}"' for name, sandbox in self._sandboxes()
                  for endpoint in sandbox.endpoints if endpoint.network_id == info.id]
        if active:
            raise ActiveEndpoints(name=info.name, endpoints=", ".join(active))
        if info.spec.config_only and any(other.spec and other.spec.config_from == info.name
                                         for other in self._network.networks()):
            raise ConfigInUse(name=info.name)
        await self._remove([info])

    async def _remove(self, infos: Sequence[NetworkInfo]) -> None:
        await self._network.remove_networks([info.id for info in infos])
        for info in infos:
            await self._documents.delete(info.id)
            self._emit("network", "destroy", info.id, {"name": info.name, "type": info.driver})

    async def prune(self, wanted: Mapping[str, Sequence[str]]) -> builtins.list[str]:
        """Remove all networks that nobody uses and that pass the filters, at one go; returns their names."""
        for key in wanted:
            if key not in _PRUNE_FILTERS:
                raise InvalidArgument(f"invalid filter '{key}'")
        until = _until(wanted.get("until", ()))
        used = self._used()
        unused = []
        for info in self._network.networks():
            spec = info.spec
            if spec is None or spec.config_only or info.id in used:
                continue
            if not filters.match_labels([*wanted.get("label", ())], spec.labels):
                continue
            if any(filters.match_labels([label], spec.labels) for label in wanted.get("label!", ())):
                continue
            if until is not None and clock.parse(spec.created) > until:
                continue
            unused.append(info)
        try:
            await self._remove(unused)
        except BarqueError:
            # Somebody began to use one of them, or removed it: the others go one by one.
            return [info.name for info in unused if await self._gone(info)]
        return [info.name for info in unused]

    async def _gone(self, info: NetworkInfo) -> bool:
        try:
            await self._remove([info])
        except BarqueError:
            return False
        return True

    def _used(self) -> set[str]:
        return {endpoint.network_id for _, sandbox in self._sandboxes() for endpoint in sandbox.endpoints}


def find(networks: Iterable[NetworkInfo], ref: str) -> NetworkInfo:
    """By id, name or unambiguous id prefix; raises NoSuchNetwork."""
    networks = list(networks)
    exact = [info for info in networks if ref in (info.name, info.id)]
    found = exact or [info for info in networks if ref and info.id.startswith(ref)]
    if not found:
        raise NoSuchNetwork(ref=ref)
    if len(found) > 1:
        raise InvalidArgument(f"network {ref} is ambiguous ({len(found)} matches found based on ID prefix)")
    return found[0]


def _until(values: Sequence[str]) -> int | None:
    if not values:
        return None
    if len(values) > 1:
        raise InvalidArgument("more than one until filter specified")
    return _moment(values[0])


def _moment(text: str) -> int:
    moment = clock.parse_moment(text, time.time_ns())
    if moment is None:
        raise filters.InvalidFilterValue(key="until", value=text)
    return moment


def _passes(info: NetworkInfo, key: str, values: Sequence[str], used: set[str]) -> bool:
    match key:
        case "driver":
            return info.driver in values
        case "scope":
            return "local" in values
        case "id":
            return any(info.id.startswith(value) for value in values)
        case "name":
            return any(_name_matches(value, info.name) for value in values)
        case "label":
            return filters.match_labels([*values], info.spec.labels if info.spec else {})
        case "type":
            if set(values) - {"builtin", "custom"}:
                raise InvalidArgument(f"invalid filter: 'type'='{values[0]}'")
            return ("builtin" if info.spec is None else "custom") in values
        case _:
            if set(values) - {"true", "1", "false", "0"}:
                raise InvalidArgument("invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" "
                                      "(or \"0\")")
            # Predefined networks are in use by definition.
            return (info.spec is not None and info.id not in used) == bool({"true", "1"} & set(values))


def _name_matches(pattern: str, name: str) -> bool:
    """dockerd matches names as regular expressions anywhere, and literally where the pattern is none."""
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return pattern in name
