"""A model whose parts are located, once and for every process that works with them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

from cascade_batch.model.parts import OPTIONAL, parts_for
from cascade_batch.settings import ModelSpec
from cascade_batch.weights.locating import locate, missing_part
from cascade_batch.weights.loras import locate_loras
from cascade_batch.weights.part import Part, picture_side, read_config


@dataclass(frozen=True)
class Model:
    """What is handed on to workers, so that they look for nothing: plain values, no credentials."""

    spec: ModelSpec
    parts: Mapping[str, Part]
    """The five of every run, and the located ones of `OPTIONAL`."""
    loras: tuple[Part, ...] = ()
    """One for each of `spec.loras`, in the order of merging."""

    @classmethod
    def locate(cls, spec: ModelSpec, optional: Collection[str] = ()) -> Self:
        """Raises as `weights.locate` and `weights.locate_loras` do."""
        parts = locate(spec, optional)
        return cls(spec, parts, tuple(locate_loras(spec, parts)))

    def for_conditions(self, conditions: Collection[str]) -> Self:
        """With the parts that a table with these columns needs besides; the others are not looked for again.

        Raises WeightsError for one that the model has not.
        """
        needed = parts_for(conditions)
        if not needed:
            return self
        model = self._with(needed)
        # The ControlNet for super-resolution looks at an embedding of its picture.
        if "controlnet" in needed and "large" in read_config(model.parts["controlnet"])["trunk"]:
            return model._with(parts_for(conditions, with_super_resolution=True))
        return model

    def _with(self, optional: Collection[str]) -> Self:
        return replace(self, parts=locate(self.spec, optional, self.parts))

    @property
    def optional(self) -> tuple[str, ...]:
        """Which parts there are besides those of every run."""
        return tuple(name for name in OPTIONAL if name in self.parts)

    def check_has(self, names: Iterable[str]) -> None:
        """Raises WeightsError for a part that is not located."""
        for name in names:
            if name not in self.parts:
                raise missing_part(self.spec, name)

    def picture_side(self) -> int | None:
        """Pixels of a side of what its image encoder looks at, None if none is located. Raises WeightsError."""
        encoder = self.parts.get("image_encoder")
        return None if encoder is None else picture_side(encoder)
