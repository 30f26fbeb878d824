"""Which names an ``rmi`` takes away, and whether the image goes with them: docker's rules, decided without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from barque.errors import Conflict
from barque.image.resolve import ResolvedImage, is_id_prefix
from barque.oci.reference import Reference, parse


@dataclass(frozen=True, slots=True)
class ImageUser:
    """A container that was made from an image."""

    container_id: str
    running: bool


class NameInUse(Conflict):
    text = ('conflict: unable to remove repository reference "{name}" (must force) - '
            "container {container} is using its referenced image {image}")


class ImageInUse(Conflict):
    text = "conflict: unable to delete {image} ({how}) - {reason}"


def decide(image: ResolvedImage, text: str, users: Sequence[ImageUser], force: bool) -> list[Reference]:
    """The names that ``rmi text`` takes away, where ``text`` was resolved to ``image``; raises NameInUse, ImageInUse.

    An image that has none left goes with them, unless :func:`still_used` holds it.
    """
    references = [row.reference for row in image.names if row.reference is not None]
    if is_id_prefix(image.id, text):
        return _by_id(image, references, users, force)
    return _by_name(image, text, references, users, force)


def _by_id(image: ResolvedImage, references: list[Reference], users: Sequence[ImageUser],
           force: bool) -> list[Reference]:
    if len(references) > 1 and not force and not _single(references):
        check_use(image, users, force=True)
        raise _conflict(image, "must be forced", "image is referenced in multiple repositories")
    check_use(image, users, force=force)
    return references


def _by_name(image: ResolvedImage, text: str, references: list[Reference], users: Sequence[ImageUser],
             force: bool) -> list[Reference]:
    if not force and users and _single(references):
        raise NameInUse(name=text, container=users[0].container_id[:12], image=image.short_id)
    wanted = parse(text).with_default_tag()
    gone = [found for found in references if found == wanted] or [
        found for found in references if found.digest and found.name == wanted.name]
    rest = [found for found in references if found not in gone]
    # With its last tag a repository loses what registries call the image there, too.
    if not wanted.digest and not any(found.tag and found.name == wanted.name for found in rest):
        gone += [found for found in rest if found.name == wanted.name]
    return gone


def still_used(users: Sequence[ImageUser], force: bool) -> bool:
    """Whether containers keep an image that loses its last name."""
    return any(user.running or not force for user in users)


def check_use(image: ResolvedImage, users: Sequence[ImageUser], *, force: bool) -> None:
    """Raises :class:`ImageInUse` where a container runs from the image, or is just there and ``force`` is not given."""
    for user in sorted((user for user in users if user.running or not force), key=lambda user: not user.running):
        if user.running:
            raise _conflict(image, "cannot be forced", f"image is being used by running container "
                                                       f"{user.container_id[:12]}")
        raise _conflict(image, "must be forced", f"image is being used by stopped container {user.container_id[:12]}")


def _conflict(image: ResolvedImage, how: str, reason: str) -> ImageInUse:
    return ImageInUse(image=image.short_id, how=how, reason=reason)


def _single(references: list[Reference]) -> bool:
    """One name, or one tag with what its registry calls it."""
    if len(references) <= 1:
        return len(references) == 1
    tags = [found for found in references if found.tag]
    named = {found.name for found in references if found.digest}
    if len(tags) > 1:
        return False
    return named == {(tags or references)[0].name}
