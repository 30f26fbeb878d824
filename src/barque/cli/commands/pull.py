"""``pull`` and ``push``."""

from __future__ import annotations

import os
import sys

from barque.cli.command import Command
from barque.cli.commands.create_flags import content_trust
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, STRING, Flag
from barque.cli.format.progress import StreamError, show_all
from barque.client.config import HUB, encode_auth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values
    from barque.client.http import Response
    from barque.oci.reference import Reference


def parse_reference(text: str) -> Reference:
    from barque.oci import reference

    try:
        return reference.parse(text)
    except reference.InvalidReference as error:
        raise CommandError(str(error)) from None


def server_of(reference: Reference) -> str:
    """The key of the credentials for the registry of an image."""
    return HUB if reference.domain == "docker.io" else reference.domain


def show_stream(response: Response, *, to_stderr: bool, quiet: bool = False,
                on_aux: Callable[[Any], None] | None = None) -> None:
    """Show a stream of progress messages; raises :class:`CommandError` for an error in it."""
    out = sys.stderr if to_stderr else sys.stdout
    columns = 0
    if out.isatty():
        try:
            columns = os.get_terminal_size(out.fileno()).columns or 200
        except OSError:
            columns = 200

    def write(text: str) -> None:
        if not quiet:
            out.write(text)
            out.flush()

    try:
        show_all(response.documents(), write, columns, on_aux)
    except StreamError as error:
        raise CommandError(str(error)) from None
    finally:
        response.close()


def pull_image(app: App, image: str, platform: str, *, to_stderr: bool, quiet: bool, all_tags: bool = False) -> str:
    """Pull and show it; gives the image's full name."""
    reference = parse_reference(image)
    tag = None if all_tags else (str(reference.digest) if reference.digest else reference.with_default_tag().tag)
    name = reference.familiar_name
    if not all_tags and reference.digest and reference.tag:
        tag = str(reference.digest)
    headers = {"X-Registry-Auth": auth} if (auth := app.registry_auth(server_of(reference))) else {}
    query = {"fromImage": name, "tag": tag, "platform": platform or None}
    response = app.engine.stream("POST", "/images/create", query, headers=headers)
    show_stream(response, to_stderr=to_stderr, quiet=quiet)
    return str(reference if all_tags else reference.with_default_tag())


def _pull(app: App, values: Values) -> int:
    text = values.arguments[0]
    reference = parse_reference(text)
    if values["all-tags"] and (reference.tag or reference.digest):
        raise CommandError("tag can't be used with --all-tags/-a")
    if not values["all-tags"] and not reference.tag and not reference.digest and not values["quiet"]:
        app.line("Using default tag: latest")
    platform = values["platform"] or app.environ.get("DOCKER_DEFAULT_PLATFORM", "")
    app.flush()
    name = pull_image(app, text, platform, to_stderr=False, quiet=values["quiet"], all_tags=values["all-tags"])
    app.line(name)
    return 0


def _push(app: App, values: Values) -> int:
    reference = parse_reference(values.arguments[0])
    if values["all-tags"]:
        if reference.tag or reference.digest:
            raise CommandError("tag can't be used with --all-tags/-a")
        tag = None
    else:
        if not reference.tag and not reference.digest and not values["quiet"]:
            app.line("Using default tag: latest")
        tag = reference.with_default_tag().tag
    headers = {"X-Registry-Auth": app.registry_auth(server_of(reference)) or encode_auth({})}
    query: dict[str, Any] = {"tag": tag}
    if values["platform"]:
        query["platform"] = platform_document(values["platform"])
    app.flush()
    response = app.engine.stream("POST", f"/images/{reference.familiar_name}/push", query, headers=headers)
    notes: list[Any] = []
    show_stream(response, to_stderr=False, quiet=values["quiet"], on_aux=notes.append)
    if values["quiet"]:
        app.line(str(reference.with_default_tag()))
    for note in notes:
        if note.get("manifestPushedInsteadOfIndex"):
            app.err("Info -> Not all multiplatform-content is present and only the available single-platform image was "
                    f"pushed\n{note['originalIndex']['digest']} -> {note['selectedManifest']['digest']}")
    return 0


def platform_document(text: str) -> str:
    from barque import fastjson
    from barque.oci.platform import InvalidPlatform, parse

    try:
        platform = parse(text)
    except InvalidPlatform as error:
        raise CommandError(str(error)) from None
    fields = {"architecture": platform.architecture, "os": platform.os, "variant": platform.variant}
    return fastjson.dumps({key: value for key, value in fields.items() if value})


def _flags(what: str) -> list[Flag]:
    return [
        Flag("all-tags", "a", BOOL, f"{what} all tags of the repository"),
        Flag("disable-content-trust", "", BOOL, "Skip image verification", True, check=content_trust),
        Flag("platform", "", STRING, "Platform of the image, where it has several"),
        Flag("quiet", "q", BOOL, "Show no progress"),
    ]


PULL = Command("pull", "[OPTIONS] NAME[:TAG|@DIGEST]", "Download an image from a registry", _pull,
               flags=lambda: _flags("Pull"), least=1, most=1, aliases="image pull, pull", examples="""
barque pull httpd
barque pull localhost:5000/team/app:1.4
barque pull --platform linux/arm64 debian
""")
PUSH = Command("push", "[OPTIONS] NAME[:TAG]", "Upload an image to a registry", _push, flags=lambda: _flags("Push"),
               least=1, most=1, aliases="image push, push", examples="""
barque tag app localhost:5000/team/app:1.4
barque push localhost:5000/team/app:1.4
""")
