"""The image that a stage has made so far: a value that each step turns into the next one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from barque.build.layers import Layer
from barque.oci import go_json, media_types
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.image import History, ImageConfig, RootFS, RunConfig
from barque.oci.platform import Platform

DEFAULT_SHELL = ("/bin/sh", "-c")
#: docker gives images that are built from nothing this PATH.
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LAYER_TYPES = {media_types.DOCKER_LAYER_GZIP: media_types.OCI_LAYER_GZIP,
                media_types.DOCKER_LAYER: media_types.OCI_LAYER}


@dataclass(frozen=True)
class State:
    """``layers`` and ``diff_ids`` bottom first; ``chain_id`` of all of them, None without any.

    ``image_id``: the digest of the configuration, "" before anything was made. ``cmd_set``: this stage has a CMD.
    ``target``: the stored manifest, where the image is one that was there before.
    """

    platform: Platform
    config: RunConfig = field(default_factory=RunConfig)
    layers: tuple[Descriptor, ...] = ()
    diff_ids: tuple[str, ...] = ()
    chain_id: str | None = None
    history: tuple[History, ...] = ()
    author: str = ""
    created: str = ""
    image_id: str = ""
    cmd_set: bool = False
    target: Descriptor | None = None

    @property
    def shell(self) -> tuple[str, ...]:
        return self.config.shell or DEFAULT_SHELL

    @property
    def env(self) -> dict[str, str]:
        pairs = (item.partition("=") for item in self.config.env or ())
        return {name: value for name, _, value in pairs}

    @property
    def content_key(self) -> str:
        """Names what the image is, whenever it was made."""
        untimed = [msgspec.structs.replace(entry, created="") for entry in self.history]
        return hashlib.sha256(go_json.encode([self.config, self.diff_ids, untimed, self.author,
                                              str(self.platform)])).hexdigest()

    def configured(self, config: RunConfig) -> State:
        return replace(self, config=config)

    def stepped(self, created: str, created_by: str, layer: Layer | None, comment: str = "") -> State:
        """With one more entry of history, and the layer that the step made if it made one."""
        entry = History(created=created, created_by=created_by, author=self.author, comment=comment,
                        empty_layer=layer is None)
        state = replace(self, history=(*self.history, entry), created=created, target=None)
        if layer is not None:
            state = replace(state, layers=(*self.layers, layer.descriptor), chain_id=layer.chain_id,
                            diff_ids=(*self.diff_ids, layer.diff_id))
        return replace(state, image_id=str(Digest.of(state.encoded())))

    def image(self) -> ImageConfig:
        return ImageConfig(
            created=self.created, author=self.author, architecture=self.platform.architecture, os=self.platform.os,
            variant=self.platform.variant, config=self.config, rootfs=RootFS(diff_ids=self.diff_ids),
            history=self.history)

    def encoded(self) -> bytes:
        """The configuration blob."""
        return go_json.encode(self.image())

    def manifest(self, annotations: Mapping[str, str] | None = None) -> bytes:
        """The manifest that names the configuration and the layers."""
        config = self.encoded()
        more = {"annotations": dict(annotations)} if annotations else {}
        return go_json.encode({
            "schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST,
            "config": {"mediaType": media_types.OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
            "layers": [{"mediaType": _LAYER_TYPES.get(layer.media_type, layer.media_type), "digest": layer.digest,
                        "size": layer.size} for layer in self.layers], **more})


def set_env(env: tuple[str, ...] | None, name: str, value: str) -> tuple[str, ...]:
    """``env`` with one variable set, in its old place if it has one."""
    found = False
    result = []
    for item in env or ():
        if item.partition("=")[0] == name:
            found = True
            item = f"{name}={value}"
        result.append(item)
    return tuple(result) if found else (*result, f"{name}={value}")
