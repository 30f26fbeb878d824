"""What can be wrong with a template."""

from __future__ import annotations


class TemplateError(Exception):
    """A template that cannot be parsed or executed; the message is text/template's."""
