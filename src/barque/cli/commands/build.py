"""``build`` and ``builder prune``."""

from __future__ import annotations

import os
import secrets
import sys

from barque.cli.command import Command
from barque.cli.commands.create_flags import content_trust
from barque.cli.commands.pull import parse_reference
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, BYTES, INT, LIST, STRING, STRING_ARRAY, STRINGS, SWAP, Flag, Kind
from barque.cli.spec import checks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

_REMOTE = ("http://", "https://", "git://", "git@", "ssh://", "github.com/")
_PROXIES = {"httpProxy": "HTTP_PROXY", "httpsProxy": "HTTPS_PROXY", "ftpProxy": "FTP_PROXY", "noProxy": "NO_PROXY",
            "allProxy": "ALL_PROXY"}
_PROGRESS = ("auto", "plain", "json")
#: Exit code of a check that found something.
_FOUND = 1


class _Context:
    """What is sent: the body, the name of the Dockerfile in it, or an address for the engine to fetch."""

    def __init__(self, body: Iterator[bytes] | None, dockerfile: str, remote: str = "") -> None:
        self.body = body
        self.dockerfile = dockerfile
        self.remote = remote


def _build(app: App, values: Values) -> int:
    source = values.arguments[0]
    if values["progress"] not in _PROGRESS:
        raise CommandError(f"invalid progress mode {values['progress']}: it is one of {', '.join(_PROGRESS)}")
    if values["isolation"] not in ("", "default"):
        raise CommandError(f"isolation {values['isolation']} is not known on Linux")
    context = _context(source, values)
    query = _query(app, values, context)
    response = app.engine.stream("POST", "/build", query, context.body, _headers(app, values))
    image_id, found = _show(app, response, values)
    if values["check"]:
        return _FOUND if found else 0
    if not image_id:
        raise CommandError("the engine ended the build without an image")
    if values["iidfile"]:
        try:
            with open(values["iidfile"], "w", encoding="ascii") as file:
                file.write(image_id)
        except OSError as error:
            raise CommandError(f"open {values['iidfile']}: {(error.strerror or '').lower()}") from None
    if values["quiet"]:
        app.line(image_id)
    return 0


def _context(source: str, values: Values) -> _Context:
    file = values["file"]
    if source == "-":
        if file == "-":
            raise CommandError("invalid argument: can't use stdin for both build context and dockerfile")
        return _from_stdin(file)
    if source.startswith(_REMOTE) and not os.path.isdir(source):
        return _Context(None, file, source)
    return _from_directory(source, file)


def _from_stdin(file: str) -> _Context:
    """An archive, or the text of a Dockerfile: docker looks at the first bytes."""
    from barque.cli.commands.load import chunks

    pieces = chunks(0)
    head = b""
    while len(head) < 512 and (piece := next(pieces, b"")):
        head += piece
    archive = head[257:262] == b"ustar" or head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))

    def rest() -> Iterator[bytes]:
        yield head
        yield from pieces

    if archive:
        return _Context(rest(), file)
    if file:
        raise CommandError("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
    from barque.cli.build_context import pack
    from barque.oci.patterns import Patterns

    return _Context(pack("", Patterns([]), "Dockerfile", {"Dockerfile": b"".join(rest())}), "Dockerfile")


def _from_directory(source: str, file: str) -> _Context:
    from barque.cli.build_context import pack, read_patterns

    if not os.path.isdir(source):
        raise CommandError(f"unable to prepare context: path {source!r} not found".replace("'", '"'))
    extra: dict[str, bytes] = {}
    root = os.path.realpath(source)
    if file == "-":
        name = f".dockerfile.{secrets.token_hex(10)}"
        extra[name] = sys.stdin.buffer.read()
    else:
        path = os.path.join(root, file or "Dockerfile") if not os.path.isabs(file) and not (
            file and os.path.exists(file)) else os.path.abspath(file)
        if not os.path.lexists(path) and not file:
            path = os.path.join(root, "dockerfile") if os.path.lexists(os.path.join(root, "dockerfile")) else path
        try:
            with open(path, "rb") as opened:
                content = opened.read()
        except OSError as error:
            raise CommandError("unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat "
                               f"{path}: {(error.strerror or '').lower()}") from None
        relative = os.path.relpath(os.path.realpath(path), root)
        if relative.startswith("../"):
            name = f".dockerfile.{secrets.token_hex(10)}"
            extra[name] = content
        else:
            name = relative
    return _Context(pack(root, read_patterns(root, name), name, extra), name)


def _query(app: App, values: Values, context: _Context) -> dict[str, Any]:
    from barque import fastjson

    labels = dict(text.partition("=")[::2] for text in values["label"])
    for tag in values["tag"]:
        parse_reference(tag)
    query: dict[str, Any] = {
        "t": list(values["tag"]) or None, "dockerfile": context.dockerfile or None, "remote": context.remote or None,
        "q": _flag(values["quiet"]), "nocache": _flag(values["no-cache"]), "rm": "1" if values["rm"] else "0",
        "forcerm": _flag(values["force-rm"]), "pull": _flag(values["pull"]), "squash": _flag(values["squash"]),
        "cpusetcpus": values["cpuset-cpus"] or None, "cpusetmems": values["cpuset-mems"] or None,
        "cpushares": values["cpu-shares"] or None, "cpuperiod": values["cpu-period"] or None,
        "cpuquota": values["cpu-quota"] or None, "memory": values["memory"] or None,
        "memswap": values["memory-swap"] or None, "cgroupparent": values["cgroup-parent"] or None,
        "shmsize": values["shm-size"] or None, "networkmode": values["network"] or "default",
        "target": values["target"] or None,
        "platform": values["platform"] or app.environ.get("DOCKER_DEFAULT_PLATFORM") or None,
        "extrahosts": fastjson.dumps(list(values["add-host"])) if values["add-host"] else None,
        "buildargs": fastjson.dumps(_arguments(app, values["build-arg"])),
        "labels": fastjson.dumps(labels) if labels else None,
        "cachefrom": fastjson.dumps(list(values["cache-from"])) if values["cache-from"] else None,
        "ulimits": fastjson.dumps(list(values["ulimit"])) if values["ulimit"] else None,
        "securityopt": fastjson.dumps(list(values["security-opt"])) if values["security-opt"] else None,
        "check": _flag(values["check"]), "allowinsecure": _flag("security.insecure" in values["allow"])}
    if query["networkmode"] == "default":
        query["networkmode"] = None
    return query


def _flag(value: bool) -> str | None:
    return "1" if value else None


def _arguments(app: App, given: list[str]) -> dict[str, str | None]:
    """``NAME=value``; a name alone takes its value from the environment. The configured proxies come with them."""
    result: dict[str, str | None] = {}
    configured = app.config.table("proxies").get("default") if app.has_config() else None
    proxies: dict[str, Any] = configured if isinstance(configured, dict) else {}
    for key, name in _PROXIES.items():
        if proxies.get(key):
            result[name] = result[name.lower()] = str(proxies[key])
    for text in given:
        name, equals, value = text.partition("=")
        result[name] = value if equals else app.environ.get(name)
    return result


def _headers(app: App, values: Values) -> dict[str, str]:
    from barque.client.config import encode_auth

    headers = {"Content-Type": "application/x-tar"}
    if app.has_config() and (known := app.config.all_credentials()):
        headers["X-Registry-Config"] = encode_auth(known)
    if values["secret"]:
        headers["X-Build-Secrets"] = encode_auth(dict(_secret(app, text) for text in values["secret"]))
    if values["ssh"]:
        headers["X-Build-SSH"] = encode_auth(dict(_agent(app, text) for text in values["ssh"]))
    return headers


def _secret(app: App, text: str) -> tuple[str, str]:
    """``id=NAME[,src=FILE|,env=VARIABLE]``: the value in base64."""
    import base64

    fields = dict(part.partition("=")[::2] for part in text.split(","))
    name = fields.get("id", "")
    if not name:
        raise CommandError(f"invalid argument \"{text}\" for \"--secret\": an id is needed")
    path = fields.get("src") or fields.get("source") or ""
    variable = fields.get("env", "")
    if not path and (variable or name in app.environ):
        if (variable or name) not in app.environ:
            raise CommandError(f"secret {name}: the environment has no variable {variable}")
        return name, base64.b64encode(app.environ[variable or name].encode("utf-8", "surrogateescape")).decode()
    try:
        with open(path or name, "rb") as file:
            return name, base64.b64encode(file.read()).decode()
    except OSError as error:
        raise CommandError(f"failed to read secret {name}: {(error.strerror or '').lower()}") from None


def _agent(app: App, text: str) -> tuple[str, str]:
    """``default`` or ``id=SOCKET``."""
    name, _, path = text.partition("=")
    path = path or app.environ.get("SSH_AUTH_SOCK", "")
    if not path:
        raise CommandError("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set")
    return name or "default", os.path.abspath(path)


def _show(app: App, response: Any, values: Values) -> tuple[str, bool]:
    """Show the stream; the id of the image, and whether a check found something."""
    from barque import fastjson
    from barque.cli.format.progress import StreamError, show_all

    result = {"ID": "", "Findings": False}

    def take(value: Any) -> None:
        if isinstance(value, dict):
            result.update({key: value[key] for key in result if key in value})

    columns = app.columns() if sys.stdout.isatty() and values["progress"] == "auto" else 0

    def write(text: str) -> None:
        if not values["quiet"]:
            sys.stdout.write(text)
            sys.stdout.flush()

    app.flush()
    try:
        if values["progress"] == "json":
            for message in response.documents():
                sys.stdout.write(fastjson.dumps(message) + "\n")
                sys.stdout.flush()
                take(message.get("aux"))
                if "error" in message:
                    raise _failed(message)
        else:
            show_all(_followed(response.documents()), write, columns, take)
    except StreamError as error:
        raise CommandError(str(error)) from None
    finally:
        response.close()
    return str(result["ID"]), bool(result["Findings"])


def _followed(messages: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A failed command's exit code becomes ours, as with docker."""
    for message in messages:
        if isinstance(message.get("errorDetail"), dict) and message["errorDetail"].get("code"):
            raise _failed(message)
        yield message


def _failed(message: dict[str, Any]) -> CommandError:
    detail = message.get("errorDetail") or {}
    code = detail.get("code") if isinstance(detail, dict) else 0
    return CommandError(str(message.get("error", "")), int(code or 1))


def _build_flags() -> list[Flag]:
    return [
        Flag("add-host", "", LIST, "Add a custom host-to-IP mapping (host:ip)"),
        Flag("allow", "", STRINGS, "Allow extra rights (security.insecure)"),
        Flag("build-arg", "", LIST, "Set build-time variables"),
        Flag("cache-from", "", STRINGS, "Images to take as cache sources"),
        Flag("cgroup-parent", "", STRING, "Parent cgroup of the containers of RUN"),
        Flag("check", "", BOOL, "Check the Dockerfile instead of building"),
        Flag("compress", "", BOOL, "Compress the build context (it is sent as it is: the engine is near)"),
        Flag("cpu-period", "", INT, "Limit the CPU CFS period"),
        Flag("cpu-quota", "", INT, "Limit the CPU CFS quota"),
        Flag("cpu-shares", "c", INT, "CPU shares (relative weight)"),
        Flag("cpuset-cpus", "", STRING, "CPUs in which to allow execution (0-3, 0,1)"),
        Flag("cpuset-mems", "", STRING, "Memory nodes in which to allow execution (0-3, 0,1)"),
        Flag("disable-content-trust", "", BOOL, "Skip image verification", True, check=content_trust),
        Flag("file", "f", STRING, "Name of the Dockerfile (Default is 'PATH/Dockerfile')"),
        Flag("force-rm", "", BOOL, "Always remove intermediate containers"),
        Flag("iidfile", "", STRING, "Write the image ID to the file"),
        Flag("isolation", "", STRING, "Container isolation technology"),
        Flag("label", "", LIST, "Set metadata for an image"),
        Flag("memory", "m", BYTES, "Memory limit"),
        Flag("memory-swap", "", SWAP, "Swap limit equal to memory plus swap: -1 for unlimited swap"),
        Flag("network", "", STRING, "Networking mode for the RUN instructions", "default"),
        Flag("no-cache", "", BOOL, "Do not use cache when building the image"),
        Flag("platform", "", STRING, "Platform of the image"),
        Flag("progress", "", STRING, "How to show progress (auto, plain, json)", "auto"),
        Flag("pull", "", BOOL, "Always attempt to pull a newer version of the image"),
        Flag("quiet", "q", BOOL, "Suppress the build output and print image ID on success"),
        Flag("rm", "", BOOL, "Remove intermediate containers after a successful build", True),
        Flag("secret", "", STRING_ARRAY, "Secret for RUN --mount=type=secret (id=NAME[,src=FILE|,env=VARIABLE])"),
        Flag("security-opt", "", STRINGS, "Security options"),
        Flag("shm-size", "", BYTES, "Size of /dev/shm"),
        Flag("squash", "", BOOL, "Squash newly built layers into a single new layer"),
        Flag("ssh", "", STRING_ARRAY, "Agent socket for RUN --mount=type=ssh (default|ID[=SOCKET])"),
        Flag("tag", "t", LIST, "Name and optionally a tag in the 'name:tag' format"),
        Flag("target", "", STRING, "Set the target build stage to build"),
        Flag("ulimit", "", Kind("ulimit", (), lambda current, text: [*current, checks.ulimit(text)], "[]"),
             "Ulimit options"),
    ]


BUILD = Command("build", "[OPTIONS] PATH | URL | -", "Build an image from a Dockerfile", _build, least=1, most=1,
                flags=_build_flags, aliases="image build, build, builder build", examples="""
barque build -t app .
barque build -t app -f docker/Dockerfile --build-arg VERSION=2 .
barque build --check .
barque build --secret id=token,env=TOKEN https://example.org/repo.git#main:app
""")
