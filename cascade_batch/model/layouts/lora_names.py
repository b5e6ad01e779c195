"""Which weights of Stage C and the text encoder a name in a LoRA file means."""

import re
from collections.abc import Iterator, Mapping

from cascade_batch.model.layouts.renames import SPLIT, names_in_loras
from cascade_batch.model.layouts.shapes import Shapes

TARGETS = ("stage_c", "text_encoder")
PEFT_PREFIX = "base_model.model."
PREFIXES = (
    ("lora_prior_unet_", "stage_c"),
    ("lora_unet_", "stage_c"),
    ("lora_prior_te_", "text_encoder"),
    ("lora_te_", "text_encoder"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder"),  # where CLIP bigG is the second of two
    ("lycoris_", "stage_c"),
    ("lycoris_", "text_encoder"),
    (PEFT_PREFIX, "stage_c"),
    (PEFT_PREFIX, "text_encoder"),
    ("prior.", "stage_c"),
    ("unet.", "stage_c"),
    ("model.diffusion_model.", "stage_c"),
    ("diffusion_model.", "stage_c"),
    ("text_encoder.", "text_encoder"),
    ("clip_g.transformer.", "text_encoder"),
    ("clip_g.", "text_encoder"),
    ("text_encoder.clip_g.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder"),
    ("", "stage_c"),
    ("", "text_encoder"),
)
"""What may stand before a name, and whose weight it is then."""
OFFICIAL = re.compile(r"weights\.(\d+)")
"""What the official trainer calls the projections of Stage C's attention."""


class Names:
    """Every name that a LoRA may give the weights of a model."""

    def __init__(self, networks: Mapping[str, Shapes]) -> None:
        self._names = {target: _spellings(shapes, target) for target, shapes in networks.items()}
        self._order = _official_order(networks["stage_c"])

    def find(self, base: str) -> tuple[str, tuple[str, ...], str] | None:
        """The network, its weights in the order of their rows, and the name without its prefix; None if there is none.

        `base` is a key without what it says of the change, such as `.lora_down.weight`.
        """
        if official := OFFICIAL.fullmatch(base):
            number = int(official[1])
            return ("stage_c", self._order[number], base) if number < len(self._order) else None
        base = base.replace(".processor", "")  # of diffusers' old attention processors
        for prefix, target in PREFIXES:
            name = base.removeprefix(prefix)
            if base.startswith(prefix) and name in self._names[target]:
                return target, self._names[target][name], name
        return None


def _spellings(shapes: Shapes, target: str) -> dict[str, tuple[str, ...]]:
    spellings: dict[str, list[str]] = {}
    for key in shapes:
        if key.endswith(".weight"):
            for name in names_in_loras(key, target):
                spellings.setdefault(name.removesuffix(".weight"), []).append(key)
    named = {name: tuple(sorted(keys, key=_rank_of_split)) for name, keys in spellings.items()}
    return named | {name.replace(".", "_"): keys for name, keys in named.items()}


def _rank_of_split(key: str) -> int:
    return next((number for number, split in enumerate(SPLIT) if split in key), 0)


def _official_order(stage_c: Shapes) -> list[tuple[str, ...]]:
    """The projections of every attention block as the official trainer counts them."""
    blocks = dict.fromkeys(key.split(".attention.")[0] for key in stage_c if ".attention.to_q." in key)
    return [names for block in sorted(blocks, key=_place) for names in _projections(block)]


def _projections(block: str) -> Iterator[tuple[str, ...]]:
    yield (f"{block}.attention.to_out.0.weight",)
    yield tuple(f"{block}{split}weight" for split in SPLIT)


def _place(block: str) -> tuple[int, ...]:
    side, *numbers = block.split(".")
    return (("down_blocks", "up_blocks").index(side), *(int(number) for number in numbers))
