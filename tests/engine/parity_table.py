"""The parity table: `python -m tests.engine.parity_table`. Networks are small, weights random or the tiny model's.

Errors are the largest difference relative to the largest value, except pictures: the largest difference in
levels of 255, and the share of values that differ. The lines below the first rule are measured, not promised:
what dtype, threads and batch size change, and how fast we are beside diffusers on this machine.
"""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from cascade_batch.engine.batches import DecodedImages, DecoderBatch, PriorBatch, PriorImages
from cascade_batch.engine.decoder import Decoder
from cascade_batch.engine.prior import Prior
from cascade_batch.engine.sampler import ImageNoise, generators_of
from cascade_batch.engine.schedule import make_schedule, time_ratios
from cascade_batch.model.config import TINY_STAGE_A, TINY_STAGE_B, TINY_STAGE_C
from tests.api import test_parity
from tests.engine import oracle
from tests.engine.oracle import generators, pair_a, pair_b, pair_c, relative_error
from tests.whole_model import write_image_encoder

PROMPTS = ["a red cat", "two boats on the sea at night", "the old castle", ""]
NEGATIVES = ["", "blurry", "", "red"]
SEEDS = [3, 12345, 7, 2**40]
RATIO = torch.tensor([0.35])


def row(network: str, run: str, result: str) -> None:
    print(f"{network:<22} {run:<48} {result}", flush=True)


def networks() -> None:
    text, pooled, embeddings = torch.randn(2, 77, 32), torch.randn(2, 32), torch.randn(2, 16, 6, 7)
    theirs, ours = pair_c(TINY_STAGE_C)
    latents = torch.randn(2, 16, 6, 9)
    expected = theirs(latents, RATIO.expand(2), pooled[:, None], text, torch.zeros(2, 1, 16)).sample
    got = ours.step(latents, ours.prepare(text, pooled, RATIO), 0)
    row("Stage C", "forward, 6x9", f"{relative_error(got, expected):.1e}")
    theirs, ours = pair_b(TINY_STAGE_B)
    for size in ((64, 64), (70, 82)):
        latents = torch.randn(2, 4, *size)
        expected = theirs(latents, RATIO.expand(2), pooled[:, None], effnet=embeddings).sample
        got = ours.step(latents, ours.prepare(pooled, embeddings, RATIO, size), 0)
        row("Stage B", f"forward, {size[0]}x{size[1]}", f"{relative_error(got, expected):.1e}")
    theirs, ours = pair_a(TINY_STAGE_A)
    latents, pixels = torch.randn(2, 4, 16, 24), torch.rand(2, 3, 64, 96)
    expected = theirs.decode(latents * TINY_STAGE_A.scale_factor).sample
    row("Stage A", "decode, 16x24", f"{relative_error(ours.decode(latents), expected):.1e}")
    row(
        "Stage A",
        "encode, 64x96",
        f"{relative_error(ours.encode(pixels), theirs.encode(pixels).latents):.1e}",
    )


def scheduler() -> None:
    theirs, ours, worst = oracle.their_scheduler(), make_schedule(time_ratios(20)), 0.0
    theirs.set_timesteps(20)
    latents = torch.randn(2, 4, 8, 8)
    for step, ratio in enumerate(theirs.timesteps[:-1]):
        noise = ImageNoise(generators_of([step, 5]), (4, 8, 8), "cpu").draw()
        epsilon = torch.sin(3 * latents)
        expected = theirs.step(epsilon, ratio.expand(2), latents, generators([step, 5])).prev_sample
        worst = max(worst, relative_error(ours.previous(latents, epsilon, noise, step), expected))
        latents = expected
    row("scheduler", "20 steps, one by one, the worst", f"{worst:.1e}")


def whole_runs() -> None:
    their_c, our_c = pair_c(TINY_STAGE_C)
    pipeline, prior = oracle.prior_pipeline(their_c), oracle.our_prior(our_c)
    for guidance in (4.0, 1.0):
        got = prior.render(PriorBatch(PROMPTS, NEGATIVES, SEEDS, 256, 384, 20, [guidance] * 4))
        expected = pipeline(
            PROMPTS, height=256, width=384, guidance_scale=guidance, negative_prompt=NEGATIVES,
            generator=generators(SEEDS),
        ).image_embeddings  # fmt: skip
        error = relative_error(torch.from_numpy(got.embeddings), expected)
        row("prior", f"20 steps, 256x384, guidance {guidance}", f"{error:.1e}")
    (their_b, our_b), (their_a, our_a) = pair_b(TINY_STAGE_B), pair_a(TINY_STAGE_A)
    embeddings = np.random.default_rng(0).standard_normal((4, 16, 6, 9), dtype=np.float32)
    pipeline, decoder = oracle.decoder_pipeline(their_b, their_a), oracle.our_decoder(our_b, our_a)
    for guidance in (1.5, 0.0):
        batch = DecoderBatch(embeddings, got.pooled, got.negative_pooled, SEEDS, 256, 384, 10, [guidance] * 4)
        expected = pipeline(
            torch.from_numpy(embeddings), PROMPTS, guidance_scale=guidance, negative_prompt=NEGATIVES,
            generator=generators(SEEDS), output_type="latent",
        ).images  # fmt: skip
        error = relative_error(decoder.latents(batch), expected)
        row("decoder", f"10 steps, 256x384, guidance {guidance}", f"{error:.1e}")


def arguments() -> None:
    """A row for each argument of the published pipelines, through the Python API."""
    with TemporaryDirectory() as folder:
        encoder = write_image_encoder(Path(folder) / "image_encoder")
        model, prior = test_parity.our_model(encoder), test_parity.prior_with_pictures(encoder)
        for name in test_parity.PRIOR:
            worst = max(test_parity.prior_errors(model, prior, name).values())
            row("prior, argument", f"{name}, 256x384", f"{worst:.1e}")
    decoder = oracle.decoder_pipeline()
    for name in test_parity.DECODER:
        got, expected = test_parity.decoder_outputs(model, decoder, name, "latent")
        row("decoder, argument", f"{name}, 256x384", f"{relative_error(got, expected):.1e}")


def ours(dtype: str = "float32") -> Callable[[], tuple[PriorImages, DecodedImages]]:
    """A rendering of the four prompts with the tiny model and default steps, ready to be run."""
    return render_in_batches(4, dtype)


def render_in_batches(batch: int, dtype: str = "float32") -> Callable[[], tuple[PriorImages, DecodedImages]]:
    parts = oracle.model_parts()
    prior, decoder = Prior.load(parts, dtype, "cpu"), Decoder.load(parts, dtype, "cpu")

    def part(rows: slice) -> tuple[PriorImages, DecodedImages]:
        seeds, count = SEEDS[rows], len(SEEDS[rows])
        images = prior.render(PriorBatch(PROMPTS[rows], NEGATIVES[rows], seeds, 256, 256, 20, [4.0] * count))
        pooled, negative = images.pooled, images.negative_pooled
        asked = DecoderBatch(images.embeddings, pooled, negative, seeds, 256, 256, 10, [0.0] * count)
        return images, decoder.render(asked)

    def run() -> tuple[PriorImages, DecodedImages]:
        parts = [part(slice(start, start + batch)) for start in range(0, 4, batch)]
        images = np.concatenate([pictures.pixels for _, pictures in parts])
        embeddings = np.concatenate([seen.embeddings for seen, _ in parts])
        first = parts[0][0]
        return (
            PriorImages(embeddings, first.pooled, first.negative_pooled, [], []),
            DecodedImages(images, [], []),
        )

    return run


def theirs(dtype: torch.dtype = torch.float32) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """The same four pictures from two diffusers pipeline calls."""
    prior, decoder = oracle.prior_pipeline(dtype=dtype), oracle.decoder_pipeline(dtype=dtype)

    def run() -> tuple[np.ndarray, np.ndarray]:
        seen = prior(
            PROMPTS, height=256, width=256, negative_prompt=NEGATIVES, generator=generators(SEEDS)
        ).image_embeddings
        pictures = decoder(seen, PROMPTS, generator=generators(SEEDS)).images
        return seen.float().numpy(), np.stack([np.asarray(picture) for picture in pictures])

    return run


def compare(run: str, ours: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> None:
    error = relative_error(torch.from_numpy(ours[0]), torch.from_numpy(others[0]))
    levels = np.abs(ours[1].astype(int) - others[1].astype(int))
    share = f"{(levels > 0).mean():.2%} differ, {levels.mean():.3f} in the mean"
    row("tiny, 256x256", run, f"embeddings {error:.1e}, pictures at most {levels.max()} of 255, {share}")


def pictures() -> None:
    def arrays(run: Callable[[], tuple[PriorImages, DecodedImages]]) -> tuple[np.ndarray, np.ndarray]:
        seen, images = run()
        return seen.embeddings, images.pixels

    exact, half = arrays(ours()), arrays(ours("bfloat16"))
    compare("float32, ours and diffusers", exact, theirs()())
    print("-" * 100)
    their_half = theirs(torch.bfloat16)()
    compare("bfloat16 and float32, ours", half, exact)
    compare("bfloat16, ours and diffusers", half, their_half)
    compare("diffusers' bfloat16 and our float32", their_half, exact)
    torch.set_num_threads(2)
    compare("1 and 2 threads, ours", arrays(ours()), exact)
    torch.set_num_threads(1)
    compare("batch of 1 and of 4, ours", arrays(render_in_batches(1)), exact)


def speed() -> None:
    seconds = []
    for run in (ours(), theirs()):
        run()
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        seconds.append(min(times))
    rate, ratio = len(PROMPTS) / seconds[0], seconds[1] / seconds[0]
    row("tiny, 256x256", "images/s on one thread, and diffusers' time / ours", f"{rate:.1f}, {ratio:.2f}")


def main() -> None:
    oracle.quiet()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"{'network':<22} {'run':<48} max error\n{'-' * 100}")
    with torch.inference_mode():
        for part in (networks, scheduler, whole_runs, arguments, pictures, speed):
            part()


if __name__ == "__main__":
    main()
