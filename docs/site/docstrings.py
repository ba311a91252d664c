"""Docstrings as Keras writes them, for the reference of the site.

An extension of Griffe, which reads them for mkdocstrings: an example that
begins with `>>>` stands by itself in a docstring, and becomes a block of code.
"""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.M)


class Examples(griffe.Extension):
    """Marks examples as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by Griffe with each object that it has read."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(
                lambda match: f"```pycon\n{match[0]}\n```", obj.docstring.value
            )
