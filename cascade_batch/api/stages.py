"""The stages of a model in this process: loaded at first use, both at once or one at a time."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from cascade_batch import weights
from cascade_batch.engine.decoder import Decoder
from cascade_batch.engine.networks.text import TextEncoder
from cascade_batch.engine.prior import Prior, load_text
from cascade_batch.model.dtypes import settled_dtype
from cascade_batch.model.parts import STAGE_BA_PARTS, STAGE_C_PARTS, PartFiles
from cascade_batch.settings import ModelSpec, Spec, text_options_of
from cascade_batch.weights import OPTIONAL, PARTS
from cascade_batch.weights.local import load_parts, local_loras


class Stages:
    """Half a model is enough for its half: the parts of one stage. Optional parts are those that the model has."""

    def __init__(self, spec: Spec, device: str, low_memory: bool) -> None:
        """Finds every part. Raises WeightsError for one that is named and not there, and for less than a stage."""
        self._spec, self._device, self._low_memory = spec, device, low_memory
        self._model = _located(spec.model)
        self._text: TextEncoder | None = None
        self._prior: Prior | None = None
        self._decoder: Decoder | None = None

    @property
    def loaded(self) -> set[str]:
        """Which of "prior" and "decoder" are in memory."""
        return {name for name, stage in (("prior", self._prior), ("decoder", self._decoder)) if stage}

    def check_whole(self) -> None:
        """Raise WeightsError for half a model."""
        self._model.check_has((*STAGE_C_PARTS, *STAGE_BA_PARTS))

    def prior(self) -> Prior:
        """Raises WeightsError for a model without Stage C or its text encoder."""
        if self._prior is None:
            parts = self._files(STAGE_C_PARTS, OPTIONAL)
            self._make_room()
            loras = local_loras(self._model)
            dtype, options = self._dtype(self._spec.model.dtype.c), text_options_of(self._spec.text)
            self._prior, self._text = Prior.load(parts, dtype, self._device, loras, options), None
        return self._prior

    def decoder(self) -> Decoder:
        """Raises WeightsError for a model without Stage B or A."""
        if self._decoder is None:
            parts = self._files(STAGE_BA_PARTS)
            self._make_room()
            self._decoder = Decoder.load(parts, self._dtype(self._spec.model.dtype.ba), self._device)
        return self._decoder

    def pooled(self, texts: list[str]) -> np.ndarray:
        """Pooled states (texts, channels) float32 for Stage B, without Stage C in memory unless LoRAs want merging."""
        if self._prior is not None or self._model.loras:
            return self.prior().pooled(texts)
        if self._text is None:
            parts, dtype = self._files(("text_encoder", "tokenizer")), self._dtype(self._spec.model.dtype.c)
            self._text = load_text(parts, dtype, self._device, text_options_of(self._spec.text))
        with torch.inference_mode():
            return self._text.encode(texts).pooled.float().cpu().numpy()

    def _files(self, names: Iterable[str], optional: Iterable[str] = ()) -> dict[str, PartFiles]:
        names = tuple(names)
        self._model.check_has(names)
        return load_parts(self._model, [*names, *(name for name in optional if name in self._model.parts)])

    def _make_room(self) -> None:
        """In low memory, drop the other stage before one is loaded."""
        if self._low_memory:
            self._prior = self._decoder = None
            torch.cuda.empty_cache()  # does nothing where there is no card

    def _dtype(self, wanted: str) -> str:
        return settled_dtype(wanted, on_cpu=self._device == "cpu")


def _located(spec: ModelSpec) -> weights.Model:
    """All parts that the model has, at least one stage's. Raises WeightsError for one that is named and not there."""
    parts = weights.locate_some(spec, (*PARTS, *OPTIONAL))
    model = weights.Model(spec, parts)
    model.check_has([name for name in (*PARTS, *OPTIONAL) if getattr(spec, name)])
    stages = (STAGE_C_PARTS, STAGE_BA_PARTS)
    model.check_has(min(stages, key=lambda names: sum(name not in parts for name in names)))
    if spec.loras:
        model.check_has(STAGE_C_PARTS)
    return replace(model, loras=tuple(weights.locate_loras(spec, parts)))
