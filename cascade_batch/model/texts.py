"""How prompts are read: plain settings that the spec names, the text encoder follows and the stage keys hash."""

from dataclasses import dataclass

LONG_PROMPTS = ("truncate", "windows")


@dataclass(frozen=True)
class TextOptions:
    long_prompts: str = "truncate"
    """truncate: what the text tower has no room for is lost; windows: a long text is encoded in several windows."""
    weighting: bool = False
    """Whether `(word:1.3)` and the like are weights (`weighting.pieces`) rather than text."""


PUBLISHED = TextOptions()
"""The published pipelines' way."""
