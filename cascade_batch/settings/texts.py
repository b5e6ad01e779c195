"""How a spec has texts read."""

from dataclasses import asdict

from cascade_batch.model.texts import TextOptions
from cascade_batch.settings.tree import TextSpec


def text_options_of(text: TextSpec) -> TextOptions:
    """What the text encoder is told."""
    return TextOptions(**asdict(text))
