"""What the readers of configs share: shapes by name, and the width of the published networks' attention heads."""

from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]

HEAD_WIDTH = 64


def heads_of(channels: int) -> int:
    """Attention heads of a layer. Raises ValueError if heads of 64 do not make it up."""
    if channels % HEAD_WIDTH:
        raise ValueError(f"attention heads, {channels} channels are not made of heads of {HEAD_WIDTH}")
    return channels // HEAD_WIDTH
