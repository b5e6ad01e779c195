"""Seeds of images. A prompt's images have seeds in a row, so that more of them never change the earlier ones."""

import hashlib

SEED_LIMIT = 2**63
"""Seeds are non-negative int64: they fit a Parquet column and `torch.Generator.manual_seed`."""


def seed_after(first: int, index: int) -> int:
    """Seed of image `index` of those that begin with the seed `first`."""
    return (first + index) % SEED_LIMIT


def image_seed(run_seed: int, prompt_id: str, prompt_seed: int | None, index: int) -> int:
    """Seed of image `index`: (seed of the prompt's first image + index) mod 2^63.

    Without a seed of its own, a prompt gets the first 63 bits (big-endian) of the sha256 of the UTF-8 text
    `<run seed>:<prompt id>`. So more images of a prompt never change the earlier ones.
    """
    if prompt_seed is None:
        digest = hashlib.sha256(f"{run_seed}:{prompt_id}".encode()).digest()
        prompt_seed = int.from_bytes(digest[:8], "big") >> 1
    return seed_after(prompt_seed, index)
