"""The stages of a model in this process: loaded at first use, both at once or one at a time."""

import torch

from cascade_batch import weights
from cascade_batch.cascade import Decoder, Prior
from cascade_batch.spec import Spec, text_options_of
from cascade_batch.stage_keys import STAGE_BA_PARTS, STAGE_C_PARTS
from cascade_batch.weights import OPTIONAL
from cascade_batch.workers.parts import local_files, local_loras


class Stages:
    """Optional parts are those that the spec names, and those that lie in the model's own folder."""

    def __init__(self, spec: Spec, device: str, low_memory: bool) -> None:
        """Finds every part. Raises WeightsError for one that is not there."""
        model, root = spec.model, weights.model_root(spec.model.name)
        optional = [
            name for name in OPTIONAL if weights.find(name, getattr(model, name), root, model.variant)
        ]
        named = [name for name in OPTIONAL if getattr(model, name)]
        self._located = weights.locate(model, {*optional, *named})
        self._loras = weights.locate_loras(model, self._located)
        self._spec, self._device, self._low_memory = spec, device, low_memory
        self._prior: Prior | None = None
        self._decoder: Decoder | None = None

    @property
    def loaded(self) -> set[str]:
        """Which of "prior" and "decoder" are in memory."""
        return {name for name, stage in (("prior", self._prior), ("decoder", self._decoder)) if stage}

    def prior(self) -> Prior:
        if self._prior is None:
            self._make_room()
            names = [*STAGE_C_PARTS, *(name for name in OPTIONAL if name in self._located)]
            parts = {name: local_files(self._located[name]) for name in names}
            loras = local_loras(self._spec.model, self._loras)
            dtype, options = self._dtype(self._spec.model.dtype.c), text_options_of(self._spec.text)
            self._prior = Prior.load(parts, dtype, self._device, loras, options)
        return self._prior

    def decoder(self) -> Decoder:
        if self._decoder is None:
            self._make_room()
            parts = {name: local_files(self._located[name]) for name in STAGE_BA_PARTS}
            self._decoder = Decoder.load(parts, self._dtype(self._spec.model.dtype.ba), self._device)
        return self._decoder

    def _make_room(self) -> None:
        """In low memory, drop the other stage before one is loaded."""
        if self._low_memory:
            self._prior = self._decoder = None
            torch.cuda.empty_cache()  # does nothing where there is no card

    def _dtype(self, wanted: str) -> str:
        return wanted if wanted != "auto" else "float32" if self._device == "cpu" else "bfloat16"
