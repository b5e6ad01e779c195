"""The one engine: load a model's parts, turn text into embeddings, turn embeddings into pixels.

It serves the workers and the Python API alike. `Prior` is the text encoder and Stage C, `Decoder` is Stage B and A;
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

from cascade_batch.batch_checks import (
    check_conditions,
    check_decoded,
    check_lengths,
    check_shape,
    check_shapes,
    check_windows,
)
from cascade_batch.batches import DecodedImages, DecoderBatch, PriorBatch, PriorImages
from cascade_batch.conditioning import Conditioner
from cascade_batch.errors import SpecError
from cascade_batch.geometry import embedding_side, latent_side
from cascade_batch.models.checkpoints import (
    PartFiles,
    load_stage_a,
    load_stage_b,
    load_stage_c,
    load_text_encoder,
    load_tokenizer,
)
from cascade_batch.models.evaluating import evaluated
from cascade_batch.models.loras import Lora, merge
from cascade_batch.models.sampler import (
    Generators,
    ImageNoise,
    OnStep,
    Start,
    denoise,
    generators_of,
    is_guided,
)
from cascade_batch.models.schedule import make_schedule, time_ratios
from cascade_batch.models.stage_a import StageA
from cascade_batch.models.stage_b import StageB
from cascade_batch.models.stage_c import StageC
from cascade_batch.models.text import TextEncoder, TextStates
from cascade_batch.texts import PUBLISHED, TextOptions


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
        return _tensor(states, self._device), _tensor(pooled, self._device)

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
            batch.guidance,
            net.config.prediction_type,
            batch.sampling,
            start,
            on_step,
        )


class Decoder:
    """Stage B and Stage A."""

    def __init__(self, stage_b: StageB, stage_a: StageA, device: str) -> None:
        self._stage_b, self._stage_a, self._device = stage_b, stage_a, device

    @classmethod
    def load(cls, parts: Mapping[str, PartFiles], dtype: str, device: str) -> "Decoder":
        """From the parts "stage_b" and "stage_a". Raises WeightsError."""
        b, a = parts["stage_b"], parts["stage_a"]
        return cls(
            load_stage_b(b.config, b.files, dtype, device),
            load_stage_a(a.config, a.files, dtype, device),
            device,
        )

    @property
    def pooled_channels(self) -> int:
        """Length of the pooled text states that Stage B takes."""
        return self._stage_b.config.clip_text_pooled_in_channels

    @torch.inference_mode()
    def render(self, batch: DecoderBatch) -> DecodedImages:
        """Pixels of exactly `height` x `width`."""
        latents = self.latents(batch)
        # One image at a time: Stage A's activations are the largest of all and gain nothing from a batch.
        images = [
            _to_pixels(self.decode(latent, batch.stage_a_scale, batch.stage_a_tile))
            for latent in latents.split(1)
        ]
        pixels, has_nan, has_infinite = zip(*images, strict=True)
        return DecodedImages(np.concatenate(pixels), list(has_nan), list(has_infinite))

    @evaluated
    def decode(self, latents: Tensor, scale: float | None = None, tile: int | None = None) -> Tensor:
        """Stage A alone: pixels (B, 3, 4 h, 4 w), float32, nominally 0..1, of latents (B, 4, h, w)."""
        return self._stage_a.decode(latents.to(self._device), scale, tile)

    @evaluated
    def latents(
        self, batch: DecoderBatch, generators: Generators | None = None, on_step: OnStep | None = None
    ) -> Tensor:
        """Stage B alone: latents (B, 4, height / 4, width / 4), float32, before Stage A scales them.

        `generators` draw the noise instead of those of the batch's seeds.
        """
        count, net = len(batch.embeddings), self._stage_b
        check_lengths(count, batch.pooled, batch.negative_pooled, batch.seeds, batch.guidance)
        check_decoded(batch, net.config)
        pooled, embeddings = _tensor(batch.pooled, self._device), _tensor(batch.embeddings, self._device)
        if is_guided(batch.guidance):
            pooled = torch.cat([pooled, _tensor(batch.negative_pooled, self._device)])
            embeddings = torch.cat([embeddings, torch.zeros_like(embeddings)])
        schedule = make_schedule(time_ratios(batch.steps, timesteps=batch.timesteps), batch.sampling)
        shape = (net.config.in_channels, latent_side(batch.height), latent_side(batch.width))
        first = None if batch.latents is None else _tensor(batch.latents, self._device)
        check_shape("latents", first, (count, *shape))
        prepared = net.prepare(pooled, embeddings, schedule.ratios.to(self._device), shape[1:])
        alone = prepared.first(count)
        noise = generators_of(batch.seeds) if generators is None else generators
        return denoise(
            lambda latents, step, guided: net.step(latents, prepared if guided else alone, step),
            schedule,
            ImageNoise(noise, shape, self._device, count, ends=generators is None),
            batch.guidance,
            net.config.prediction_type,
            batch.sampling,
            Start(first),
            on_step,
        )


def _tensor(array: np.ndarray, device: str) -> Tensor:
    # A copy in memory that torch aligns: matrix products may round differently elsewhere.
    return torch.tensor(array, dtype=torch.float32, device=device)


def _to_pixels(image: Tensor) -> tuple[np.ndarray, bool, bool]:
    """(1, 3, H, W) float32 in 0..1 to (1, H, W, 3) uint8, rounded to the nearest level."""
    has_nan, has_infinite = bool(image.isnan().any()), bool(image.isinf().any())
    levels = (image.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy(), has_nan, has_infinite
