"""Distributed batch rendering with Stable Cascade: prompt tables in, PNGs and manifests out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascade_batch.api import Cascade

__version__ = "0.1.0"
__all__ = ["Cascade", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Cascade":  # at first use: it brings torch, which most commands do without
        from cascade_batch.api import Cascade

        return Cascade
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
