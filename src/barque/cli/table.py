"""Which module implements which command. Nothing is imported before it is asked for."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.command import Command

GROUPS = {
    "builder": "Manage builds", "checkpoint": "Manage checkpoints", "container": "Manage containers",
    "context": "Manage contexts", "docs": "The manual",
    "image": "Manage images", "manifest": "Manage manifests and lists of manifests",
    "network": "Manage networks", "registry": "The registry that comes with the engine", "system": "Manage the engine",
    "volume": "Manage volumes",
}

#: Container and image verbs that exist at the top and below their group.
_BOTH = {
    "run": ("container run", "run:RUN", "Create and run a new container from an image"),
    "exec": ("container exec", "exec:EXEC", "Execute a command in a running container"),
    "ps": ("container ls", "ps:PS", "List containers"),
    "build": ("image build", "build:BUILD", "Build an image from a Dockerfile"),
    "pull": ("image pull", "pull:PULL", "Download an image from a registry"),
    "push": ("image push", "pull:PUSH", "Upload an image to a registry"),
    "images": ("image ls", "images:IMAGES", "List images"),
    "info": ("system info", "info:INFO", "Display system-wide information"),
    "attach": ("container attach", "attach:ATTACH", "Attach to the streams of a running container"),
    "commit": ("container commit", "commit:COMMIT", "Create a new image from a container's changes"),
    "cp": ("container cp", "cp:CP", "Copy files between a container and the local filesystem"),
    "create": ("container create", "run:CREATE", "Create a new container"),
    "diff": ("container diff", "diff:DIFF", "Show what changed in a container's filesystem"),
    "events": ("system events", "events:EVENTS", "Get real time events from the engine"),
    "export": ("container export", "export:EXPORT", "Export a container's filesystem as a tar archive"),
    "history": ("image history", "history:HISTORY", "Show the history of an image"),
    "import": ("image import", "load:IMPORT", "Make an image of a filesystem tarball"),
    "kill": ("container kill", "lifecycle:KILL", "Kill one or more running containers"),
    "load": ("image load", "load:LOAD", "Load images from a tar archive or STDIN"),
    "logs": ("container logs", "logs:LOGS", "Fetch the logs of a container"),
    "pause": ("container pause", "lifecycle:PAUSE", "Pause all processes of containers"),
    "port": ("container port", "port:PORT", "List the port mappings of a container"),
    "rename": ("container rename", "lifecycle:RENAME", "Rename a container"),
    "restart": ("container restart", "lifecycle:RESTART", "Restart one or more containers"),
    "rm": ("container rm", "rm:RM", "Remove one or more containers"),
    "rmi": ("image rm", "rmi:RMI", "Remove one or more images"),
    "save": ("image save", "load:SAVE", "Save images to a tar archive (STDOUT by default)"),
    "start": ("container start", "start:START", "Start one or more stopped containers"),
    "stats": ("container stats", "stats:STATS", "Display a live stream of resource usage"),
    "stop": ("container stop", "lifecycle:STOP", "Stop one or more running containers"),
    "tag": ("image tag", "tag:TAG", "Create a tag that refers to an image"),
    "top": ("container top", "top:TOP", "Display the running processes of a container"),
    "unpause": ("container unpause", "lifecycle:UNPAUSE", "Unpause all processes of containers"),
    "update": ("container update", "update:UPDATE", "Change the limits of containers"),
    "wait": ("container wait", "wait:WAIT", "Block until containers stop, then print their exit codes"),
}
_TOP = {
    "login": ("login:LOGIN", "Authenticate to a registry"),
    "logout": ("login:LOGOUT", "Log out from a registry"),
    "version": ("version:VERSION", "Show the version information"),
    "inspect": ("inspect:INSPECT", "Return low-level information on objects"),
    "search": ("search:SEARCH", "Search a registry for images"),
    "completion": ("completion:COMPLETION", "Print the script for the completion of a shell"),
    "__complete": ("completion:COMPLETE", "What may come next on a command line"),
}
_IN_GROUPS = {
    "builder build": ("build:BUILD", "Build an image from a Dockerfile"),
    "builder cache": ("builder:CACHE", "Manage the cache mounts of RUN steps"),
    "builder history": ("builder:HISTORY", "Look at the builds of the past"),
    "builder prune": ("prune:CACHE", "Remove build cache"),
    "checkpoint create": ("checkpoint:CREATE", "Create a checkpoint of a running container"),
    "checkpoint ls": ("checkpoint:LS", "List the checkpoints of a container"),
    "checkpoint rm": ("checkpoint:RM", "Remove a checkpoint"),
    "container inspect": ("inspect:CONTAINER", "Display detailed information on containers"),
    "container prune": ("prune:CONTAINERS", "Remove all stopped containers"),
    "context create": ("context:CREATE", "Create a context"),
    "context export": ("context_archive:EXPORT", "Write a context to a tar archive"),
    "context import": ("context_archive:IMPORT", "Make a context of a tar or zip archive"),
    "context inspect": ("context:INSPECT", "Display detailed information on contexts"),
    "context ls": ("context:LS", "List contexts"),
    "context rm": ("context:RM", "Remove one or more contexts"),
    "context show": ("context:SHOW", "Print the name of the current context"),
    "context update": ("context:UPDATE", "Update a context"),
    "context use": ("context:USE", "Set the current context"),
    "docs man": ("docs:MAN", "Write the manual pages"),
    "image bootstrap": ("image_bootstrap:BOOTSTRAP", "Make a base image from a distribution's packages"),
    "image diff": ("image_contents:DIFF", "Show how two images differ"),
    "image flatten": ("image_contents:FLATTEN", "Make an image with all layers in one"),
    "image inspect": ("inspect:IMAGE", "Display detailed information on images"),
    "image layers": ("image_contents:LAYERS", "Show what each layer adds, replaces, deletes and wastes"),
    "image prune": ("prune:IMAGES", "Remove unused images"),
    "manifest annotate": ("manifest:ANNOTATE", "Say more about an image of a local list"),
    "manifest create": ("manifest:CREATE", "Create a local list of manifests"),
    "manifest inspect": ("manifest:INSPECT", "Show a manifest or a list of them"),
    "manifest push": ("manifest:PUSH", "Push a list of manifests"),
    "manifest rm": ("manifest:RM", "Remove local lists of manifests"),
    "network connect": ("network_change:CONNECT", "Connect a container to a network"),
    "network create": ("network_change:CREATE", "Create a network"),
    "network firewall": ("network_firewall:FIREWALL", "Show who can reach what on networks"),
    "network disconnect": ("network_change:DISCONNECT", "Disconnect a container from a network"),
    "network inspect": ("inspect:NETWORK", "Display detailed information on networks"),
    "network ls": ("network:LS", "List networks"),
    "network prune": ("prune:NETWORKS", "Remove all unused networks"),
    "network rm": ("network:RM", "Remove one or more networks"),
    "registry check": ("registry:CHECK", "Verify every digest and reference of a registry"),
    "registry gc": ("registry:GC", "Collect a registry's garbage, also while it serves"),
    "registry serve": ("registry:SERVE", "Serve images to other machines"),
    "system df": ("df:DF", "Show disk usage"),
    "system dial-stdio": ("dial:DIAL", "Connect standard input and output to the engine"),
    "system fsck": ("fsck:FSCK", "Check what is stored, and mend what is damaged"),
    "system prune": ("prune:SYSTEM", "Remove unused data"),
    "volume clone": ("volume_copies:CLONE", "Make a volume with what another one has"),
    "volume create": ("volume:CREATE", "Create a volume"),
    "volume export": ("volume_copies:EXPORT", "Write what a volume has to a tar archive"),
    "volume import": ("volume_copies:IMPORT", "Unpack a tar archive into a volume"),
    "volume inspect": ("inspect:VOLUME", "Display detailed information on volumes"),
    "volume ls": ("volume:LS", "List volumes"),
    "volume prune": ("prune:VOLUMES", "Remove unused volumes"),
    "volume rename": ("volume_copies:RENAME", "Rename a volume that no container has"),
    "volume rm": ("volume:RM", "Remove one or more volumes"),
    "volume update": ("volume:UPDATE", "Update a volume (cluster volumes only)"),
}
_HIDDEN = frozenset(("system dial-stdio", "__complete"))

#: path -> (module:attribute, summary)
TABLE: dict[str, tuple[str, str]] = {
    **{top: (target, text) for top, (_, target, text) in _BOTH.items()},
    **{grouped: (target, text) for grouped, target, text in _BOTH.values()},
    **_TOP, **_IN_GROUPS,
}

_ALIASES = {
    "container list": "container ls", "container ps": "container ls", "container remove": "container rm",
    "image list": "image ls", "image remove": "image rm", "network list": "network ls", "network remove": "network rm",
    "volume list": "volume ls", "volume remove": "volume rm", "context list": "context ls",
    "context remove": "context rm", "checkpoint list": "checkpoint ls", "checkpoint remove": "checkpoint rm",
}

#: Verbs of docker that this version does not have.
MISSING = frozenset((
    "plugin", "trust", "config", "node", "secret", "service", "stack", "swarm", "buildx", "compose",
))

_COMMON = ("run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "version", "info")


def resolve(words: list[str]) -> tuple[str, list[str]]:
    """(path of the command, the words behind it); the path may be unknown."""
    if len(words) > 1 and words[0] in GROUPS:
        path = f"{words[0]} {words[1]}"
        path = _ALIASES.get(path, path)
        if path in TABLE or path in MISSING:
            return path, words[2:]
    return words[0], words[1:]


def load(path: str) -> Command:
    module, _, attribute = TABLE[path][0].partition(":")
    loaded = __import__(f"barque.cli.commands.{module}", fromlist=[attribute])
    command: Command = getattr(loaded, attribute)
    return command


def short_path(path: str) -> str:
    """The name at the top of a command that has two (``ps`` for ``container ls``)."""
    return next((top for top, (grouped, _, _) in _BOTH.items() if grouped == path), path)


def hidden(path: str) -> bool:
    """Whether help does not speak of it."""
    return path in _HIDDEN


def members(group: str) -> list[tuple[str, str]]:
    return sorted((path.partition(" ")[2], text) for path, (_, text) in TABLE.items()
                  if path.startswith(group + " ") and path not in _HIDDEN)


def sections() -> list[tuple[str, list[tuple[str, str]]]]:
    """What the top help lists: (title, [(command, text)])."""
    top = {path: text for path, (_, text) in TABLE.items() if " " not in path and path not in _HIDDEN}
    return [
        ("Common Commands", [(path, top[path]) for path in _COMMON]),
        ("Management Commands", sorted(GROUPS.items())),
        ("Commands", sorted((path, text) for path, text in top.items() if path not in _COMMON)),
    ]
