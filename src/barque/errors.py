"""The kinds of failure that Barque reports, each tied to one HTTP status.

Concrete errors are declared beside the code that raises them, as subclasses with a ``text`` template::

    class NoSuchContainer(NotFound):
        text = "No such container: {ref}"

    raise NoSuchContainer(ref="web")

The texts are wire API: docker clients match substrings of them, so they equal dockerd's.
"""

from __future__ import annotations


class BarqueError(Exception):
    """Base of every failure that is an answer rather than a bug.

    ``status`` is the HTTP status that the API edge answers with. Either pass a whole message, or declare ``text`` on
    the subclass and pass its fields by name; the fields stay readable as attributes in ``fields``.
    """

    status = 500
    text: str | None = None

    def __init__(self, message: str | None = None, /, **fields: object) -> None:
        self.fields = fields
        if message is None:
            if self.text is None:
                raise TypeError(f"{type(self).__name__} needs a message")
            message = self.text.format(**fields)
        super().__init__(message)

    @property
    def message(self) -> str:
        return str(self.args[0])


class InvalidArgument(BarqueError):
    """The request makes no sense, whatever the state of the engine."""

    status = 400


class Unauthenticated(BarqueError):
    status = 401


class PermissionDenied(BarqueError):
    status = 403


class NotFound(BarqueError):
    status = 404


class Conflict(BarqueError):
    """The request is fine, the state of the object it names forbids it."""

    status = 409


class NotModified(BarqueError):
    """Nothing to do: answered with an empty 304."""

    status = 304


class Unsupported(BarqueError):
    """Known, and not to be had here: this build, this host or this kernel lacks it."""

    status = 501


class Unavailable(BarqueError):
    """Something that this engine depends on (registry, disk, peer) does not answer now."""

    status = 503


class DataLoss(BarqueError):
    """Stored or received bytes do not have the digest or size that names them."""

    status = 500


class Internal(BarqueError):
    """The engine could not do what it was right to ask; the message says which step failed."""

    status = 500
