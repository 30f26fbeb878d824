"""The flags of ``build``."""

from __future__ import annotations

from barque.cli.commands.create_flags import content_trust
from barque.cli.flags import BOOL, BYTES, INT, LIST, STRING, STRING_ARRAY, STRINGS, SWAP, Flag, Kind
from barque.cli.spec import checks

#: Names of images may be separated by commas, as docker has it.
_CACHES = Kind("stringArray", (), lambda current, text: [*current, *([text] if "=" in text else text.split(","))])


def build_flags() -> list[Flag]:
    return [
        Flag("add-host", "", LIST, "Add a custom host-to-IP mapping (host:ip)"),
        Flag("allow", "", STRINGS, "Allow extra rights (security.insecure)"),
        Flag("attest", "", STRING_ARRAY, "Attach attestations (type=sbom, type=provenance,mode=min|max)"),
        Flag("build-arg", "", LIST, "Set build-time variables"),
        Flag("cache-from", "", _CACHES, "Cache sources: images here, type=registry,ref=NAME, type=local,src=DIRECTORY"),
        Flag("cache-to", "", STRING_ARRAY, "Where to put the cache: type=registry,ref=NAME, type=local,dest=DIRECTORY "
                                           "or type=inline, with mode=min or mode=max"),
        Flag("cgroup-parent", "", STRING, "Parent cgroup of the containers of RUN"),
        Flag("check", "", BOOL, "Check the Dockerfile instead of building"),
        Flag("compress", "", BOOL, "Compress the build context for an engine that cannot read it in place"),
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
        Flag("metadata-file", "", STRING, "Write what was built to the file, as JSON"),
        Flag("network", "", STRING, "Networking mode for the RUN instructions", "default"),
        Flag("no-cache", "", BOOL, "Do not use cache when building the image"),
        Flag("on-failure", "", STRING, "What becomes of a RUN that fails (keep: an image with what it did; remove)"),
        Flag("output", "o", STRING_ARRAY, "Where the result goes (type=local|tar|oci|docker|image|registry,dest=PATH)"),
        Flag("platform", "", STRING, "Platform of the image"),
        Flag("progress", "", STRING, "How to show progress (auto, tty, plain, quiet, rawjson)", "auto"),
        Flag("provenance", "", STRING, "Attach how the image was made (true, false, mode=min, mode=max)"),
        Flag("push", "", BOOL, "Push the image to its registry: short for --output type=registry"),
        Flag("pull", "", BOOL, "Always attempt to pull a newer version of the image"),
        Flag("quiet", "q", BOOL, "Suppress the build output and print image ID on success"),
        Flag("rm", "", BOOL, "Remove intermediate containers after a successful build", True),
        Flag("sbom", "", STRING, "Attach a list of the packages in the image (true, false)"),
        Flag("secret", "", STRING_ARRAY, "Secret for RUN --mount=type=secret (id=NAME[,src=FILE|,env=VARIABLE])"),
        Flag("security-opt", "", STRINGS, "Security options"),
        Flag("shm-size", "", BYTES, "Size of /dev/shm"),
        Flag("squash", "", BOOL, "Squash newly built layers into a single new layer"),
        Flag("ssh", "", STRING_ARRAY, "Agent socket for RUN --mount=type=ssh (default|ID[=SOCKET])"),
        Flag("tag", "t", LIST, "Name and optionally a tag in the 'name:tag' format"),
        Flag("target", "", STRING, "Set the target build stage to build"),
        Flag("ulimit", "", Kind("ulimit", (), lambda current, text: [*current, checks.ulimit(text)], "[]"),
             "Ulimit options"),
        Flag("volume", "v", LIST, "Let every RUN see a directory of the host (/HOST/PATH:/CONTAINER/PATH[:ro])"),
    ]
