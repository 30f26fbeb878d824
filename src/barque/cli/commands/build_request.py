"""What ``build`` sends: the context, the query, the headers."""

from __future__ import annotations

import os
import sys
from functools import partial

from barque.cli.commands.pull import parse_reference
from barque.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from barque.cli.app import App
    from barque.cli.commands.build_results import Target
    from barque.cli.flags import Values

_REMOTE = ("http://", "https://", "git://", "git@", "ssh://", "github.com/")
_PROXIES = {"httpProxy": "HTTP_PROXY", "httpsProxy": "HTTPS_PROXY", "ftpProxy": "FTP_PROXY", "noProxy": "NO_PROXY",
            "allProxy": "ALL_PROXY"}


class Context:
    """What is sent: the body, the name of the Dockerfile in it, or an address for the engine to fetch.

    ``directory``: where the files are on this machine, "" where there is none. ``text``: a Dockerfile that is not among
    them.
    """

    def __init__(self, body: Callable[[], Iterator[bytes]] | None, dockerfile: str, remote: str = "",
                 directory: str = "", text: bytes = b"") -> None:
        self.body = body
        self.dockerfile = dockerfile
        self.remote = remote
        self.directory = directory
        self.text = text


def context(source: str, values: Values) -> Context:
    file = values["file"]
    if source == "-":
        if file == "-":
            raise CommandError("invalid argument: can't use stdin for both build context and dockerfile")
        return _from_stdin(file)
    if source.startswith(_REMOTE) and not os.path.isdir(source):
        return Context(None, file, source)
    found = _from_directory(source, file)
    if values["compress"] and found.body is not None:
        found.body = partial(compressed, found.body)
    return found


def compressed(body: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
    """In gzip's format, which an engine finds out by itself."""
    import zlib

    packer = zlib.compressobj(wbits=31)
    for piece in body():
        if data := packer.compress(piece):
            yield data
    yield packer.flush()


def _from_stdin(file: str) -> Context:
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
        return Context(rest, file)
    if file:
        raise CommandError("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
    from barque.cli.build_context import pack
    from barque.oci.patterns import Patterns

    text = b"".join(rest())
    return Context(lambda: pack("", Patterns([]), "Dockerfile", {"Dockerfile": text}), "Dockerfile")


def _from_directory(source: str, file: str) -> Context:
    if not os.path.isdir(source):
        raise CommandError(f"unable to prepare context: path {source!r} not found".replace("'", '"'))
    extra: dict[str, bytes] = {}
    root = os.path.realpath(source)
    if file == "-":
        name = _own_name()
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
            name = _own_name()
            extra[name] = content
        else:
            name = relative
    return Context(lambda: _packed(root, name, extra), name, directory=root, text=extra.get(name, b""))


def _own_name() -> str:
    """Of a Dockerfile that is not among the files."""
    return f".dockerfile.{os.urandom(10).hex()}"


def _packed(root: str, dockerfile: str, extra: dict[str, bytes]) -> Iterator[bytes]:
    from barque.cli.build_context import pack, read_patterns

    return pack(root, read_patterns(root, dockerfile), dockerfile, extra)


def query(app: App, values: Values, source: Context, targets: list[Target]) -> dict[str, Any]:
    from barque import fastjson

    labels = dict(text.partition("=")[::2] for text in values["label"])
    for tag in values["tag"]:
        parse_reference(tag)
    asked: dict[str, Any] = {
        "t": list(values["tag"]) or None, "dockerfile": source.dockerfile or None, "remote": source.remote or None,
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
        "cachefrom": _listed(text for text in values["cache-from"] if not local_cache(text)),
        "cacheto": _listed(values["cache-to"]), "binds": _listed(map(_bind, values["volume"])),
        "outputs": _listed({"Type": target.kind, "Attrs": target.attrs} for target in targets),
        "onfailure": values["on-failure"] or None, "trace": "1", **_attestations(values),
        "ulimits": fastjson.dumps(list(values["ulimit"])) if values["ulimit"] else None,
        "securityopt": fastjson.dumps(list(values["security-opt"])) if values["security-opt"] else None,
        "check": _flag(values["check"]), "allowinsecure": _flag("security.insecure" in values["allow"])}
    if asked["networkmode"] == "default":
        asked["networkmode"] = None
    return asked


def _listed(items: Iterable[object]) -> str | None:
    from barque import fastjson

    found = list(items)
    return fastjson.dumps(found) if found else None


def _bind(text: str) -> str:
    """A host path is taken from the working directory."""
    source, colon, rest = text.partition(":")
    if not colon or not source:
        raise CommandError(f"invalid volume {text}: it is /HOST/PATH:/CONTAINER/PATH[:ro]")
    return f"{os.path.abspath(source)}:{rest}"


def local_cache(text: str) -> str:
    """The directory of a ``--cache-from type=local,src=DIRECTORY``; "" for another source."""
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    if fields.get("type") != "local":
        return ""
    if not fields.get("src"):
        raise CommandError(f"invalid cache source {text}: it is type=local,src=DIRECTORY")
    return fields["src"]


def _attestations(values: Values) -> dict[str, str | None]:
    """``--attest type=sbom`` and ``--attest type=provenance,mode=max`` are the long forms of the other two."""
    found: dict[str, str | None] = {"sbom": values["sbom"] or None, "provenance": values["provenance"] or None}
    for text in values["attest"]:
        fields = dict(part.partition("=")[::2] for part in text.split(","))
        kind = fields.pop("type", "")
        disabled = fields.pop("disabled", "false") in ("true", "1")
        unknown = sorted(fields.keys() - {"mode"})
        if kind not in found or unknown:
            raise CommandError(f"invalid attestation {text}: it is type=sbom or type=provenance[,mode=min|max]")
        mode = f"mode={fields['mode']}" if "mode" in fields else "true"
        found[kind] = "false" if disabled else mode
    return found


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


def headers(app: App, values: Values) -> dict[str, str]:
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
