"""A row's bytes depend on the row alone: alone or among others, in any order, at equal batch size and threads."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from cascade_batch.engine.batches import DecodedImages, DecoderBatch, PriorBatch, PriorImages
from cascade_batch.engine.decoder import Decoder
from cascade_batch.engine.prior import Prior
from tests.engine.oracle import model_parts

BATCH = 4


@dataclass(frozen=True)
class Row:
    prompt: str
    seed: int
    guidance: float = 4.0
    negative: str = ""


ROW = Row("a red cat in the garden", 7)
OTHERS = [Row("city", 1, 2.5), Row("the old castle " * 40, 2, 9.0, "blue sky"), Row("", 2**62, 4.0, "dog")]


@pytest.fixture(scope="module")
def engines() -> tuple[Prior, Decoder]:
    parts = model_parts()
    return Prior.load(parts, "float32", "cpu"), Decoder.load(parts, "float32", "cpu")


def render(
    engines: tuple[Prior, Decoder], rows: list[Row], guided: bool = True
) -> tuple[PriorImages, DecodedImages]:
    assert len(rows) == BATCH
    seeds, size = [row.seed for row in rows], (320, 264)
    guidance = [row.guidance if guided else 0.0 for row in rows]
    images = engines[0].render(
        PriorBatch([row.prompt for row in rows], [row.negative for row in rows], seeds, *size, 4, guidance)
    )
    batch = DecoderBatch(images.embeddings, images.pooled, images.negative_pooled, seeds, *size, 3, guidance)
    return images, engines[1].render(batch)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_neighbours_and_order_change_nothing(
    engines: tuple[Prior, Decoder], threads: int, guided: bool
) -> None:
    torch.set_num_threads(threads)
    images, pictures = render(engines, [ROW] * BATCH, guided)  # alone, padded with itself
    layouts = [[ROW, *OTHERS], [OTHERS[1], ROW, OTHERS[0], OTHERS[2]], [*OTHERS[::-1], ROW]]
    for rows in layouts:
        among, among_pictures = render(engines, rows, guided)
        place = rows.index(ROW)
        assert images.embeddings[0].tobytes() == among.embeddings[place].tobytes()
        assert images.pooled[0].tobytes() == among.pooled[place].tobytes()
        assert images.negative_pooled[0].tobytes() == among.negative_pooled[place].tobytes()
        assert pictures.pixels[0].tobytes() == among_pictures.pixels[place].tobytes()


def test_prompt_and_seed_change_the_picture(engines: tuple[Prior, Decoder]) -> None:
    rows = [ROW, Row(ROW.prompt, 8), Row("a blue boat", ROW.seed), Row(ROW.prompt, ROW.seed, 8.0)]
    _, pictures = render(engines, rows)
    first = pictures.pixels[0].astype(int)
    for other in pictures.pixels[1:]:
        assert np.abs(other - first).mean() > 1


def test_token_counts_and_truncation(engines: tuple[Prior, Decoder]) -> None:
    images, _ = render(engines, [ROW, *OTHERS])
    assert images.prompt_tokens == [9, 3, 242, 2]  # start and end included
    assert images.prompt_truncated == [False, False, True, False]


def test_sizes_are_exact(engines: tuple[Prior, Decoder]) -> None:
    """Also where the published pipelines crash (320) or render another size (264)."""
    images, pictures = render(engines, [ROW, *OTHERS])
    assert images.embeddings.shape == (BATCH, 16, 8, 7)
    assert pictures.pixels.shape == (BATCH, 320, 264, 3)
    assert pictures.has_nan == [False] * BATCH
    assert pictures.has_infinite == [False] * BATCH


def test_lost_values_are_flagged_per_image(engines: tuple[Prior, Decoder]) -> None:
    prior, decoder = engines
    images = prior.render(PriorBatch(["a", "b"], ["", ""], [1, 2], 256, 256, 2, [4.0] * 2))
    images.embeddings[0] = np.nan
    batch = DecoderBatch(
        images.embeddings, images.pooled, images.negative_pooled, [1, 2], 256, 256, 2, [0.0] * 2
    )
    pictures = decoder.render(batch)
    assert pictures.has_nan == [True, False]
    assert pictures.pixels[0].max() == 0
    assert pictures.pixels[1].std() > 1


def test_bfloat16_renders(engines: tuple[Prior, Decoder]) -> None:
    parts = model_parts()
    exact, _ = render(engines, [ROW, *OTHERS])
    half, pictures = render(
        (Prior.load(parts, "bfloat16", "cpu"), Decoder.load(parts, "bfloat16", "cpu")), [ROW, *OTHERS]
    )
    error = np.abs(half.embeddings - exact.embeddings).mean() / np.abs(exact.embeddings).mean()
    assert 1e-4 < error < 0.2
    assert not any(pictures.has_nan + pictures.has_infinite)
    assert half.embeddings.dtype == np.float32
