"""The one engine: load a model's parts, turn text into embeddings, turn embeddings into pixels.

Also the Python API. `Prior` is the text encoder and Stage C, `Decoder` is Stage B and A; each renders a batch
of images of one size, one number of steps and of text windows, and guidance either on or off for all. What an
image looks like depends on its own text, seed and guidance, never on its neighbours; its bits depend on batch
size, threads, dtype and device besides (`fix_numerics`, `numerics.py`).
Nothing here touches storage: parts are local files, results are numpy arrays.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
from cascade_batch.models.loras import Lora, merge
from cascade_batch.models.sampler import ImageNoise, denoise, is_guided
from cascade_batch.models.schedule import DIFFUSERS, make_schedule
from cascade_batch.models.stage_a import StageA
from cascade_batch.models.stage_b import StageB
from cascade_batch.models.stage_c import StageC
from cascade_batch.models.text import TextEncoder
from cascade_batch.numerics import SWITCHES
from cascade_batch.sampling import StageSampling
from cascade_batch.texts import PUBLISHED, TextOptions


@dataclass(frozen=True)
class PriorBatch:
    """Images for Stage C: lists of one length, one size, one number of steps, one of `Prior.windows`."""

    prompts: list[str]
    negative_prompts: list[str]
    seeds: list[int]
    height: int
    width: int
    steps: int
    guidance: list[float]
    sampling: StageSampling = DIFFUSERS


@dataclass(frozen=True)
class PriorImages:
    """Stage C's output. `embeddings` (B, 16, h, w), the pooled text states (B, channels), all float32."""

    embeddings: np.ndarray
    pooled: np.ndarray
    negative_pooled: np.ndarray
    prompt_tokens: list[int]
    prompt_truncated: list[bool]


@dataclass(frozen=True)
class DecoderBatch:
    """Images for Stage B and A: `PriorImages` arrays, one size, one number of steps."""

    embeddings: np.ndarray
    pooled: np.ndarray
    negative_pooled: np.ndarray
    seeds: list[int]
    height: int
    width: int
    steps: int
    guidance: list[float]
    sampling: StageSampling = DIFFUSERS
    stage_a_scale: float | None = None


@dataclass(frozen=True)
class DecodedImages:
    """`pixels` (B, height, width, 3) uint8. The flags tell of values lost in the conversion to uint8."""

    pixels: np.ndarray
    has_nan: list[bool]
    has_infinite: list[bool]


class Prior:
    """Text encoder and Stage C."""

    def __init__(self, text: TextEncoder, stage_c: StageC, device: str) -> None:
        self._text, self._stage_c, self._device = text, stage_c, device

    @classmethod
    def load(
        cls,
        parts: Mapping[str, PartFiles],
        dtype: str,
        device: str,
        loras: Sequence[Lora] = (),
        text: TextOptions = PUBLISHED,
    ) -> "Prior":
        """From the parts "text_encoder", "tokenizer" and "stage_c", with LoRAs merged. Raises WeightsError."""
        c, tower_files = parts["stage_c"], parts["text_encoder"]
        stage_c = load_stage_c(c.config, c.files, dtype, device)
        tower = load_text_encoder(tower_files.config, tower_files.files, dtype, device)
        tokenizer = load_tokenizer(parts["tokenizer"].folder)
        if loras:
            tokenizer = merge(loras, stage_c, tower, tokenizer).tokenizer
        return cls(TextEncoder(tower, tokenizer, text), stage_c, device)

    def windows(self, prompt: str, negative_prompt: str) -> int:
        """Text windows of an image: as many as the longer of its texts takes; 1 unless the options ask for more."""
        return max(self._text.windows(prompt), self._text.windows(negative_prompt))

    @torch.inference_mode()
    def render(self, batch: PriorBatch) -> PriorImages:
        """Embeddings and pooled states; the negative text is always encoded, Stage B may need it.

        Raises SpecError for a batch that is not of one kind.
        """
        count = len(batch.prompts)
        _check_lengths(count, batch.negative_prompts, batch.seeds, batch.guidance)
        texts = self._text.encode([*batch.prompts, *batch.negative_prompts])
        _check_windows(texts.windows[:count], texts.windows[count:])
        rows = slice(None) if is_guided(batch.guidance) else slice(count)
        schedule = make_schedule(batch.steps, batch.sampling)
        net = self._stage_c
        prepared = net.prepare(texts.states[rows], texts.pooled[rows], schedule.ratios.to(self._device))
        shape = (net.config.in_channels, embedding_side(batch.height), embedding_side(batch.width))
        alone = prepared.first(count)
        embeddings = denoise(
            lambda latents, step, guided: net.step(latents, prepared if guided else alone, step),
            schedule,
            ImageNoise(batch.seeds, shape, self._device),
            batch.guidance,
            net.config.prediction_type,
            batch.sampling,
        )
        pooled = texts.pooled.float().cpu().numpy()
        return PriorImages(
            embeddings=embeddings.cpu().numpy(),
            pooled=pooled[:count],
            negative_pooled=pooled[count:],
            prompt_tokens=texts.tokens[:count],
            prompt_truncated=texts.truncated[:count],
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

    @torch.inference_mode()
    def render(self, batch: DecoderBatch) -> DecodedImages:
        """Pixels of exactly `height` x `width`."""
        _check_lengths(
            len(batch.embeddings), batch.pooled, batch.negative_pooled, batch.seeds, batch.guidance
        )
        latents = self.latents(batch)
        # One image at a time: Stage A's activations are the largest of all and gain nothing from a batch.
        images = [
            _to_pixels(self._stage_a.decode(latent, batch.stage_a_scale)) for latent in latents.split(1)
        ]
        pixels, has_nan, has_infinite = zip(*images, strict=True)
        return DecodedImages(np.concatenate(pixels), list(has_nan), list(has_infinite))

    def latents(self, batch: DecoderBatch) -> Tensor:
        """Stage B alone: latents (B, 4, height / 4, width / 4), float32, before Stage A scales them."""
        pooled, embeddings = self._tensor(batch.pooled), self._tensor(batch.embeddings)
        if is_guided(batch.guidance):
            pooled = torch.cat([pooled, self._tensor(batch.negative_pooled)])
            embeddings = torch.cat([embeddings, torch.zeros_like(embeddings)])
        schedule = make_schedule(batch.steps, batch.sampling)
        net = self._stage_b
        height, width = latent_side(batch.height), latent_side(batch.width)
        prepared = net.prepare(pooled, embeddings, schedule.ratios.to(self._device), (height, width))
        alone = prepared.first(len(batch.embeddings))
        return denoise(
            lambda latents, step, guided: net.step(latents, prepared if guided else alone, step),
            schedule,
            ImageNoise(batch.seeds, (net.config.in_channels, height, width), self._device),
            batch.guidance,
            net.config.prediction_type,
            batch.sampling,
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        # A copy in memory that torch aligns: matrix products may round differently elsewhere.
        return torch.tensor(array, dtype=torch.float32, device=self._device)


def _to_pixels(image: Tensor) -> tuple[np.ndarray, bool, bool]:
    """(1, 3, H, W) float32 in 0..1 to (1, H, W, 3) uint8, rounded to the nearest level."""
    has_nan, has_infinite = bool(image.isnan().any()), bool(image.isinf().any())
    levels = (image.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy(), has_nan, has_infinite


def _check_lengths(count: int, *columns: list | np.ndarray) -> None:
    lengths = [len(column) for column in columns]
    if count == 0 or any(length != count for length in lengths):
        raise SpecError("a batch needs columns of one length, at least 1", got=[count, *lengths])


def _check_windows(prompts: list[int], negative_prompts: list[int]) -> None:
    """Filling an image up to a longer neighbour would change its picture."""
    windows = [max(pair) for pair in zip(prompts, negative_prompts, strict=True)]
    if len(set(windows)) > 1:
        raise SpecError(
            "images of different numbers of text windows cannot share a batch",
            got=windows,
            next_step="group them by Prior.windows",
        )


def pick_device() -> str:
    """The accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_kind(device: str) -> str:
    """What bits depend on: "cpu", or the accelerator's name, such as "NVIDIA H100 80GB HBM3"."""
    return "cpu" if device == "cpu" else torch.cuda.get_device_name(device)


def fix_numerics(threads: int) -> dict[str, object]:
    """Pin every switch of this process that changes bits, and return them to be stored with the run.

    Call it before the first kernel runs: cuBLAS reads its workspace setting when it starts.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = str(SWITCHES["cublas_workspace"])
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cuda.enable_cudnn_sdp(
        False
    )  # flash, else memory-efficient: chosen by shape and dtype only
    return {"threads": threads, **SWITCHES}
