"""Seeds of images. A prompt's images have seeds in a row, so that more of them never change the earlier ones."""

SEED_LIMIT = 2**63
"""Seeds are non-negative int64: they fit a Parquet column and `torch.Generator.manual_seed`."""


def seed_after(first: int, index: int) -> int:
    """Seed of image `index` of those that begin with the seed `first`."""
    return (first + index) % SEED_LIMIT
