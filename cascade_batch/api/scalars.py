"""Texts, numbers, seeds and scales of a call, checked by the rules of a prompt table's rows: one entry per image."""

from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cascade_batch.engine.sampler import Generators, is_guided
from cascade_batch.engine.schedule import time_ratios
from cascade_batch.errors import SpecError
from cascade_batch.model.geometry import check_sides
from cascade_batch.model.seeds import SEED_LIMIT, seed_after
from cascade_batch.settings import values

Texts = str | Sequence[str] | None
Array = Tensor | np.ndarray
Seeds = int | Sequence[int] | None


def prompts_of(prompt: Texts, embeds: Array | None) -> list[str]:
    """One text per prompt; "" where states came ready made. Raises SpecError if there is neither, or both."""
    if prompt is not None and embeds is not None:
        raise SpecError("a prompt and prompt_embeds", got="both", expected="one of them")
    if embeds is not None:
        return [""] * len(values.numbers("prompt_embeds", to_numbers(embeds), (2, 3)))
    if prompt is None:
        raise SpecError("no prompt", expected="prompt, or prompt_embeds with prompt_embeds_pooled")
    return texts_of(prompt, "prompt")


def negatives_of(negative: Texts, embeds: Array | None, count: int) -> list[str]:
    """One negative text per prompt, one text serving all; None is "". Raises SpecError for another number."""
    if negative is not None and embeds is not None:
        raise SpecError("a negative_prompt and negative_prompt_embeds", got="both", expected="one of them")
    if negative is None or isinstance(negative, str):
        return texts_of(negative or "", "negative_prompt") * count
    texts = texts_of(
        ["" if one is None else one for one in _several(negative, "negative_prompt", "a text")],
        "negative_prompt",
    )
    if len(texts) not in (1, count):
        raise _mismatch(
            "negative prompts do not match the prompts", "negative_prompt", len(texts), f"1 or {count}"
        )
    return texts * count if len(texts) == 1 else texts


def texts_of(given: str | Iterable[str], name: str) -> list[str]:
    """One text, or several in a row. Raises SpecError."""
    if isinstance(given, str):
        return [values.text(given, name)]
    texts = [
        values.text(one, f"{name}[{number}]") for number, one in enumerate(_several(given, name, "a text"))
    ]
    if not texts:
        raise SpecError("no texts", where=name, got="an empty list", expected="at least one")
    return texts


def drawn_by(generator: Generators | None, seed: Seeds, count: int) -> tuple[list[int], Generators | None]:
    """(seeds, generators) of the images: seeds name images as a prompt table's do; generators go on where they stand.

    With neither, seeds come from torch's global generator, so that `torch.manual_seed` decides.
    """
    if generator is not None and seed is not None:
        raise SpecError("a generator and a seed", got="both", expected="one of them")
    if generator is not None:
        return [0] * count, _generators(generator, count)
    if seed is None:
        return torch.randint(SEED_LIMIT - 1, (count,), device="cpu").tolist(), None
    if _is_one(seed):
        first = values.whole("seed", seed)
        return [seed_after(first, i) for i in range(count)], None
    seeds = [
        values.whole("seed", one, f"seed[{i}]")
        for i, one in enumerate(_several(seed, "seed", "a whole number"))
    ]
    if len(seeds) != count:
        raise _mismatch("seeds do not match the images", "seed", len(seeds), count)
    return seeds, None


def _generators(given: Generators, count: int) -> Generators:
    """A list of one is one for all, as the published pipelines have it."""
    if isinstance(given, torch.Generator):
        return given
    listed = _several(given, "generator", "a torch.Generator")
    if not all(isinstance(one, torch.Generator) for one in listed):
        raise SpecError(
            "no generator", where="generator", got=values.shown(given), expected="torch.Generator"
        )
    if len(listed) not in (1, count):
        raise _mismatch("generators do not match the images", "generator", len(listed), f"1 or {count}")
    return listed[0] if len(listed) == 1 else listed


def scales_of(stage: str, scale: float | Sequence[float], count: int, where: str) -> list[float]:
    """A guidance scale per image of "prior" or "decoder". Raises SpecError."""
    name = f"{stage}_guidance_scale"
    if _is_one(scale):
        return [values.real(name, scale, where)] * count
    scales = [
        values.real(name, one, f"{where}[{i}]") for i, one in enumerate(_several(scale, where, "a number"))
    ]
    if len(scales) != count:
        raise _mismatch("guidance scales do not match the images", where, len(scales), count)
    is_guided(scales)
    return scales


def times_of(timesteps: Sequence[float] | None, where: str = "timesteps") -> tuple[float, ...] | None:
    """Time ratios that fall. Raises SpecError."""
    if timesteps is None:
        return None
    times = values.times(where, to_numbers(timesteps))
    try:
        time_ratios(len(times), timesteps=times)
    except SpecError as error:
        raise SpecError(error.what, where=where, got=error.got, expected=error.expected) from None
    return tuple(times)


def numbers_of(name: str, given: Array | None, dimensions: Sequence[int]) -> np.ndarray | None:
    """A float32 array of finite numbers. Raises SpecError."""
    return None if given is None else values.numbers(name, to_numbers(given), dimensions)


def latents_of(name: str, given: Array | None, images: int, height: int, width: int) -> np.ndarray | None:
    """The first noise of images, (images, channels, height, width). Raises SpecError."""
    noise = numbers_of(name, given, (4,))
    if noise is not None and (len(noise), *noise.shape[2:]) != (images, height, width):
        expected = (images, "channels", height, width)
        raise SpecError("latents of another size", where=name, got=noise.shape, expected=expected)
    return noise


def to_numbers(given: Any) -> Any:
    """A tensor, or a list of them, as an array on the CPU; anything else as it is."""
    if isinstance(given, list | tuple) and any(isinstance(one, Tensor) for one in given):
        return [to_numbers(one) for one in given]
    return given.detach().float().cpu().numpy() if isinstance(given, Tensor) else given


def sides_of(height: int, width: int) -> tuple[int, int]:
    """Pixels, as numbers that render. Raises SpecError."""
    sides = values.integer(height, "height"), values.integer(width, "width")
    check_sides(*sides)
    return sides


def _mismatch(what: str, where: str, got: int, expected: object) -> SpecError:
    return SpecError(what, where=where, got=got, expected=expected)


def _is_one(given: Any) -> bool:
    """Whether it is one value rather than a row of them; numpy's and torch's scalars are one."""
    return given is None or isinstance(given, str | bytes | Number) or getattr(given, "shape", None) == ()


def _several(given: Any, name: str, kind: str) -> list[Any]:
    if _is_one(given) or isinstance(given, Mapping | Set) or not isinstance(given, Iterable):
        expected = f"{kind}, or a list of them"
        raise SpecError("an argument of another type", where=name, got=values.shown(given), expected=expected)
    return list(given)
