"""``manifest``: images of several platforms under one name, from registry to registry without an engine."""

from __future__ import annotations

import json
import os

from barque.cli.command import Command
from barque.cli.commands.pull import parse_reference, server_of
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, STRING, STRINGS, Flag
from barque.cli.manifests import Fetched, ListStore, ManifestError, fetch, index_of, push
from barque.client.config import BadConfig
from barque.errors import BarqueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values
    from barque.oci.reference import Reference

_ARCHITECTURES = frozenset((
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64",
    "s390x", "wasm"))
_SYSTEMS = frozenset((
    "aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "js", "linux", "netbsd", "openbsd", "plan9",
    "solaris", "wasip1", "windows"))


def _name(text: str) -> Reference:
    return parse_reference(text).with_default_tag()


def _store(app: App) -> ListStore:
    return ListStore(os.path.join(app.config_directory, "manifests"))


def _credentials(app: App, ref: Reference) -> dict[str, str]:
    return app.config.credentials(server_of(ref))


def _fetch(app: App, ref: Reference, values: Values) -> Fetched:
    return fetch(ref, _credentials(app, ref), insecure=values["insecure"])


def _reported(run: Callable[[App, Values], int]) -> Callable[[App, Values], int]:
    """Failures below are the command's."""
    def reported(app: App, values: Values) -> int:
        try:
            return run(app, values)
        except (BarqueError, ManifestError, BadConfig) as error:
            raise CommandError(str(error)) from None

    return reported


def _print(app: App, document: object) -> None:
    app.line(json.dumps(document, indent="\t", ensure_ascii=False))


def _create(app: App, values: Values) -> int:
    target, store = _name(values.arguments[0]), _store(app)
    if store.exists(target) and not values["amend"]:
        raise CommandError("refusing to amend an existing manifest list with no --amend flag")
    found = []
    for ref in map(_name, values.arguments[1:]):
        entry = store.entry(target, ref)
        if entry is None:
            fetched = _fetch(app, ref, values)
            if fetched.is_list:
                raise CommandError(f"{ref} is a manifest list")
            entry = fetched.entry(ref)
        found.append((ref, entry))
    for ref, entry in found:
        store.put(target, ref, entry)
    app.line(f"Created manifest list {target}")
    return 0


def _annotate(app: App, values: Values) -> int:
    target, ref = map(_name, values.arguments)
    store = _store(app)
    entry = store.entry(target, ref)
    if entry is None:
        raise CommandError(f"manifest for image {values.arguments[1]} does not exist in {values.arguments[0]}")
    platform = entry["Descriptor"].setdefault("platform", {})
    for flag, key in (("os", "os"), ("arch", "architecture"), ("variant", "variant"), ("os-version", "os.version")):
        if values[flag]:
            platform[key] = values[flag]
    if values["os-features"]:
        platform["os.features"] = sorted({*platform.get("os.features", ()), *values["os-features"]})
    if platform.get("os") not in _SYSTEMS or platform.get("architecture") not in _ARCHITECTURES:
        raise CommandError("manifest entry for image has unsupported os/arch combination: "
                           f"{platform.get('os', '')}/{platform.get('architecture', '')}")
    store.put(target, ref, entry)
    return 0


def _inspect(app: App, values: Values) -> int:
    store = _store(app)
    ref = _name(values.arguments[-1])
    if len(values.arguments) > 1:
        entry = store.entry(_name(values.arguments[0]), ref)
        if entry is None:
            raise CommandError(f"no such manifest: {ref}")
        _print(app, entry if values["verbose"] else entry.get("SchemaV2Manifest") or entry["OCIManifest"])
    elif store.exists(ref):
        entries = store.entries(ref)
        _print(app, entries if values["verbose"] else index_of(entries)[1])
    else:
        fetched = _fetch(app, ref, values)
        _print(app, _verbose(app, ref, fetched, values) if values["verbose"] else json.loads(fetched.body))
    return 0


def _verbose(app: App, ref: Reference, fetched: Fetched, values: Values) -> Any:
    from dataclasses import replace

    from barque.oci.digest import Digest

    if not fetched.is_list:
        return fetched.entry(ref)
    found = []
    for descriptor in json.loads(fetched.body)["manifests"]:
        one = replace(ref, tag="", digest=Digest.parse(descriptor["digest"]))
        entry = _fetch(app, one, values).entry(one)
        entry["Descriptor"] = descriptor
        found.append(entry)
    return found


def _push(app: App, values: Values) -> int:
    target, store = _name(values.arguments[0]), _store(app)
    entries = [(_name(entry["Ref"]), entry) for entry in store.entries(target)]
    for ref, entry in entries:
        platform = entry["Descriptor"].get("platform") or {}
        if not platform.get("os") or not platform.get("architecture"):
            raise CommandError(f"manifest {ref} must have an OS and Architecture to be pushed to a registry")
        if ref.domain != target.domain:
            raise CommandError("cannot use source images from a different registry than the target image: "
                               f"{ref.domain} != {target.domain}")
    digest = push(target, entries, _credentials(app, target), insecure=values["insecure"])
    if values["purge"]:
        store.remove(target)
    app.line(digest)
    return 0


def _rm(app: App, values: Values) -> int:
    store, errors = _store(app), []
    for text in values.arguments:
        try:
            store.remove(_name(text))
        except ManifestError as error:
            errors.append(str(error))
    if errors:
        raise CommandError("\n".join(errors))
    return 0


def _insecure() -> Flag:
    return Flag("insecure", "", BOOL, "Talk to a registry without TLS, or with a certificate that nobody vouches for")


CREATE = Command("manifest create", "MANIFEST_LIST MANIFEST [MANIFEST...]", "Create a local list of manifests",
                 _reported(_create), least=2, flags=lambda: [
                     Flag("amend", "a", BOOL, "Amend a list that exists"), _insecure()], examples="""
barque manifest create registry.example/app:1 registry.example/app:1-amd64 registry.example/app:1-arm64
barque manifest push registry.example/app:1
""")
ANNOTATE = Command("manifest annotate", "[OPTIONS] MANIFEST_LIST MANIFEST", "Say more about an image of a local list",
                   _reported(_annotate), least=2, most=2, flags=lambda: [
                       Flag("arch", "", STRING, "Set the architecture"),
                       Flag("os", "", STRING, "Set the operating system"),
                       Flag("os-features", "", STRINGS, "Set features of the operating system"),
                       Flag("os-version", "", STRING, "Set the version of the operating system"),
                       Flag("variant", "", STRING, "Set the variant of the architecture"),
                   ], examples="barque manifest annotate --arch arm64 --variant v8 app:1 app:1-arm64")
INSPECT = Command("manifest inspect", "[OPTIONS] [MANIFEST_LIST] MANIFEST", "Show a manifest or a list of them",
                  _reported(_inspect), least=1, most=2, flags=lambda: [
                      _insecure(), Flag("verbose", "v", BOOL, "Show layers and platform too")],
                  examples="barque manifest inspect debian")
PUSH = Command("manifest push", "[OPTIONS] MANIFEST_LIST", "Push a list of manifests", _reported(_push), least=1,
               most=1, flags=lambda: [_insecure(), Flag("purge", "p", BOOL, "Remove the local list afterwards")],
               examples="barque manifest push --purge registry.example/app:1")
RM = Command("manifest rm", "MANIFEST_LIST [MANIFEST_LIST...]", "Remove local lists of manifests", _rm, least=1,
             examples="barque manifest rm registry.example/app:1")
