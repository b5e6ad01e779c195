"""Text encoder and Stage C: text to embeddings.

`Prior` here and `Decoder` (`decoder.py`) serve the workers and the Python API alike;
each renders a batch of images of one size, one number of steps and of text windows, and guidance either on or off for
all. What an image looks like depends on its own text, seed and guidance, never on its neighbours; its bits depend on
batch size, threads, dtype and device besides (`devices.py`).
Nothing here touches storage: parts are local files, results are numpy arrays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cascade_batch.engine.arrays import to_tensor
from cascade_batch.engine.batch_checks import (
    check_conditions,
    check_lengths,
    check_shapes,
    check_windows,
)
from cascade_batch.engine.batches import PriorBatch, PriorImages
from cascade_batch.engine.conditioning import Conditioner
from cascade_batch.engine.evaluating import evaluated
from cascade_batch.engine.loading.checkpoints import (
    load_stage_c,
    load_text_encoder,
    load_tokenizer,
)
from cascade_batch.engine.loading.lora_merging import merge
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.engine.networks.text import TextEncoder, TextStates
from cascade_batch.engine.sampler import (
    Generators,
    ImageNoise,
    OnStep,
    Start,
    denoise,
    generators_of,
    is_guided,
)
from cascade_batch.engine.schedule import make_schedule, time_ratios
from cascade_batch.errors import SpecError
from cascade_batch.model.geometry import embedding_side
from cascade_batch.model.parts import Lora, PartFiles
from cascade_batch.model.texts import PUBLISHED, TextOptions


def load_text(
    parts: Mapping[str, PartFiles], dtype: str, device: str, options: TextOptions = PUBLISHED
) -> TextEncoder:
    """From the parts "text_encoder" and "tokenizer". Raises WeightsError."""
    files = parts["text_encoder"]
    tower = load_text_encoder(files.config, files.files, dtype, device)
    return TextEncoder(tower, load_tokenizer(parts["tokenizer"].folder), options)


class Prior:
    """Text encoder and Stage C."""

    def __init__(
        self, text: TextEncoder, stage_c: StageC, device: str, conditioner: Conditioner | None = None
    ) -> None:
        self._text, self._stage_c, self._device = text, stage_c, device
        self._conditioner = conditioner or Conditioner(device)

    @classmethod
    def load(
        cls,
        parts: Mapping[str, PartFiles],
        dtype: str,
        device: str,
        loras: Sequence[Lora] = (),
        text: TextOptions = PUBLISHED,
    ) -> "Prior":
        """From the parts "text_encoder", "tokenizer" and "stage_c", with LoRAs merged, and those of `Conditioner`.

        Raises WeightsError.
        """
        c, tower_files = parts["stage_c"], parts["text_encoder"]
        stage_c = load_stage_c(c.config, c.files, dtype, device)
        tower = load_text_encoder(tower_files.config, tower_files.files, dtype, device)
        tokenizer = load_tokenizer(parts["tokenizer"].folder)
        if loras:
            tokenizer = merge(loras, stage_c, tower, tokenizer).tokenizer
        conditioner = Conditioner.load(parts, dtype, device)
        conditioner.check(stage_c)
        return cls(TextEncoder(tower, tokenizer, text), stage_c, device, conditioner)

    def windows(self, prompt: str, negative_prompt: str) -> int:
        """Text windows of an image: as many as the longer of its texts takes; 1 unless the options ask for more."""
        return max(self._text.windows(prompt), self._text.windows(negative_prompt))

    @torch.inference_mode()
    def render(self, batch: PriorBatch) -> PriorImages:
        """Embeddings and pooled states; the negative text is always encoded, Stage B may need it.

        Raises SpecError for a batch that is not of one kind, or does not fit the model.
        """
        texts = self.encode(batch)
        count = len(batch.prompts)
        check_windows(texts.windows[:count], texts.windows[count:])
        return PriorImages(
            embeddings=self.embed(batch, texts).cpu().numpy(),
            pooled=texts.pooled[:count].float().cpu().numpy(),
            negative_pooled=texts.pooled[count:].float().cpu().numpy(),
            prompt_tokens=texts.tokens[:count],
            prompt_truncated=texts.truncated[:count],
        )

    @evaluated
    def embed(
        self,
        batch: PriorBatch,
        texts: TextStates,
        generators: Generators | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Stage C alone: embeddings (B, 16, h, w) float32 of texts that `encode` gave.

        `generators` draw the noise instead of those of the batch's seeds.
        """
        start = self._conditioner.start(batch.conditions)
        check_shapes(batch, start, self._stage_c.config.in_channels)
        if start.clean is not None and batch.conditions.strength == 0:
            return start.clean
        return self._denoise(batch, texts, start, generators, on_step)

    @evaluated
    def encode(self, batch: PriorBatch) -> TextStates:
        """States of the prompts, then of the negative prompts, as many tokens each; given ones come as they are.

        Without guidance given token states stand alone, since nothing sees those of the negative prompts.
        """
        check_lengths(len(batch.prompts), batch.negative_prompts, batch.seeds, batch.guidance)
        count, given = len(batch.prompts), batch.conditions
        written = self._text.encode([*batch.prompts, *batch.negative_prompts])
        asked = self._given(given.prompt_embeds, given.prompt_embeds_pooled, "prompt_embeds")
        avoided = self._given(
            given.negative_prompt_embeds, given.negative_prompt_embeds_pooled, "negative_prompt_embeds"
        )
        if asked is None and avoided is None:
            return written
        asked_states, asked_pooled = asked or (written.states[:count], written.pooled[:count])
        avoided_states, avoided_pooled = avoided or (written.states[count:], written.pooled[count:])
        guided = is_guided(batch.guidance)
        return replace(
            written,
            states=torch.cat(self._text.evened(asked_states, avoided_states)) if guided else asked_states,
            pooled=torch.cat([asked_pooled, avoided_pooled]),
            tokens=written.tokens if asked is None else [asked_states.shape[1]] * count,
            truncated=written.truncated if asked is None else [False] * count,
        )

    @evaluated
    def pooled(self, texts: Sequence[str]) -> np.ndarray:
        """Pooled states alone, (texts, channels) float32: all that Stage B sees of a text."""
        return self._text.encode(texts).pooled.float().cpu().numpy()

    @property
    def image_size(self) -> int:
        """Side of the pictures to vary that the model's image encoder takes."""
        return self._conditioner.image_size

    def _given(
        self, states: np.ndarray | None, pooled: np.ndarray | None, name: str
    ) -> tuple[Tensor, Tensor] | None:
        """Text states that came ready made, checked."""
        if states is None and pooled is None:
            return None
        if states is None or pooled is None:
            raise SpecError(f"{name} and {name}_pooled go together", got="one of them", expected="both")
        config = self._stage_c.config
        widths = (config.clip_text_in_channels, config.clip_text_pooled_in_channels)
        if (states.ndim, states.shape[-1], pooled.ndim, pooled.shape[-1]) != (3, widths[0], 2, widths[1]):
            raise SpecError(
                f"{name} do not fit the model",
                got=f"{states.shape} and pooled {pooled.shape}",
                expected=f"(images, tokens, {widths[0]}) and (images, {widths[1]})",
            )
        return to_tensor(states, self._device), to_tensor(pooled, self._device)

    def _denoise(
        self,
        batch: PriorBatch,
        texts: TextStates,
        start: Start,
        generators: Generators | None,
        on_step: OnStep | None,
    ) -> Tensor:
        count, net, given = len(batch.prompts), self._stage_c, batch.conditions
        guided = is_guided(batch.guidance)
        rows = slice(None) if guided else slice(count)
        schedule = make_schedule(time_ratios(batch.steps, given.strength, given.timesteps), batch.sampling)
        images = self._conditioner.image_states(given, guided)
        check_conditions(net.config, images, given)
        prepared = net.prepare(
            texts.states[rows],
            texts.pooled[rows],
            schedule.ratios.to(self._device),
            images=images,
            injections=self._conditioner.injections(given),
            conditions={"sca": given.sca, "crp": given.crp},
        )
        alone = prepared.first(count)
        shape = (net.config.in_channels, embedding_side(batch.height), embedding_side(batch.width))
        noise = generators_of(batch.seeds) if generators is None else generators
        return denoise(
            lambda latents, step, guided: net.step(latents, prepared if guided else alone, step),
            schedule,
            ImageNoise(noise, shape, self._device, count, ends=generators is None),
            guidance=batch.guidance,
            prediction_type=net.config.prediction_type,
            sampling=batch.sampling,
            start=start,
            on_step=on_step,
        )
