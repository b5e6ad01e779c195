"""Variants: the same weights in other numbers, told by file names such as `diffusion_pytorch_model.bf16.safetensors`.

Repositories are not even: the official ones have bfloat16 of the networks, and people keep only that beside a Stage A
in float32. So a variant is a wish, part by part. Asked for none, a part takes its plain weights, else the only ones
there; asked for one that it lacks, it takes what it would take unasked, with a note. `locate` refuses a variant that no
part has.
"""

import logging
import re
from collections.abc import Collection
from functools import lru_cache

from cascade_batch.errors import WeightsError

MARKS = {"safetensors", "index", "json"}
"""Words of a weights file's name that are no variant."""
LOW_PRECISION = ("bf16", "fp16")
"""Variants that single files have in their names."""

log = logging.getLogger(__name__)


def variant_of(file: str, stem: str) -> str | None:
    """The variant of a part's single file or shard index, "" for plain weights; None for any other file.

    An index has had its variant behind `index` and before it, by turns.
    """
    if not file.startswith(f"{stem}."):
        return None
    words = file.removeprefix(f"{stem}.").split(".")
    variant = [word for word in words if word not in MARKS]
    is_index = file.endswith(".json") and {"safetensors", "index"} <= set(words)
    if len(variant) > 1 or not (is_index or file.endswith(".safetensors")):
        return None
    return None if any(re.search(r"-\d{5}-of-", word) for word in variant) else "".join(variant)


def has_variant(file: str, variant: str) -> bool:
    """Whether a file's name says so, in any of the ways that are in use: `.bf16.`, `_bf16.`, `.bf16-00001-of-...`."""
    return re.search(rf"[._-]{re.escape(variant)}[._-]", file) is not None


def chosen_variant(stored: Collection[str | None], asked: str | None, where: str, part: str) -> str | None:
    """The variant that a part is read in. Raises WeightsError if there are several and no telling which."""
    if asked in stored:
        return asked
    if None not in stored and len(stored) > 1:
        raise WeightsError(
            f"{part} is there in several variants" + (f", none of them {asked}" if asked else ""),
            where=where,
            got=", ".join(sorted(str(variant) for variant in stored)),
            next_step="choose one: --variant, or --set model.variant",
        )
    chosen = None if None in stored else next(iter(stored))
    if asked:
        note_fallback(where, asked, chosen or "plain weights")
    return chosen


@lru_cache(maxsize=256)
def note_fallback(where: str, asked: str, taken: str) -> None:
    """Say once in a process that something other than the variant asked for is taken."""
    log.warning("%s has no variant %s: %s taken", where, asked, taken)
