"""How a spec has texts read."""

from dataclasses import asdict

from cascade_batch.spec.tree import TextSpec
from cascade_batch.texts import TextOptions


def text_options_of(text: TextSpec) -> TextOptions:
    """What the text encoder is told."""
    return TextOptions(**asdict(text))
