"""``image bootstrap``: a base image straight from a distribution's packages, the same bytes each time."""

from __future__ import annotations

import os
import tempfile

from barque.cli import debian
from barque.cli.command import Command
from barque.cli.commands.pull import parse_reference, show_stream
from barque.cli.errors import CommandError
from barque.cli.flags import LIST, STRING, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from barque.cli.app import App
    from barque.cli.flags import Values


def _bootstrap(app: App, values: Values) -> int:
    from barque.cli.archives import image_archive

    wanted, *target = values.arguments
    distribution, colon, suite = wanted.partition(":")
    if not colon or not distribution or not suite:
        raise CommandError(f"want DISTRIBUTION:SUITE, such as debian:bookworm, not {wanted!r}")
    reference = parse_reference(target[0] if target else wanted).with_default_tag()
    if reference.digest:
        raise CommandError("refusing to create a tag with a digest reference")
    if os.geteuid() != 0:
        raise CommandError("a root file system can be made by root only: sudo barque image bootstrap ...")
    order = debian.Order(distribution, suite, tuple(values["mirror"]), tuple(values["include"]), values["variant"],
                         values["architecture"])
    with tempfile.TemporaryDirectory(prefix="barque-bootstrap-") as scratch:
        tree = os.path.join(scratch, "root")
        released = debian.make(order, tree, scratch, lambda line: app.err(line))
        epoch = int(app.environ.get("SOURCE_DATE_EPOCH") or released)
        archive = image_archive(tree, scratch, reference.familiar, epoch, order.architecture,
                                f"barque image bootstrap {wanted}")
        response = app.engine.stream("POST", "/images/load", {"quiet": "1"}, _chunks(archive),
                                     {"Content-Type": "application/x-tar"})
        show_stream(response, to_stderr=False)
    app.line(app.engine.get(f"/images/{reference.familiar}/json")["Id"])
    return 0


def _chunks(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while data := file.read(1 << 18):
            yield data


BOOTSTRAP = Command(
    "image bootstrap", "[OPTIONS] DISTRIBUTION:SUITE [NAME[:TAG]]",
    "Make a base image from a distribution's packages, without a registry.\n"
    "The same packages give the same image. No time in it is after SOURCE_DATE_EPOCH, by default that of the release.",
    _bootstrap, least=1, most=2, flags=lambda: [
        Flag("architecture", "", STRING, "Architecture of the packages (default: this machine's)"),
        Flag("include", "", LIST, "Further packages"),
        Flag("mirror", "", LIST, "Address of packages, or a line of sources.list (default: this machine's sources)"),
        Flag("variant", "", STRING, "minbase, or what mmdebstrap and debootstrap know besides", "minbase"),
    ], examples="barque image bootstrap debian:bookworm base:12\n"
                "barque image bootstrap --include ca-certificates debian:trixie")
