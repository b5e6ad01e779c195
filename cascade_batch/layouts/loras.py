"""Which weights a LoRA file changes, in the three formats that are about. No torch here.

    official trainer    weights.N.lora_down [r, in], weights.N.lora_up [out, r]; N counts the projections of Stage C's
                        attention in module order, two each: out_proj, then in_proj (queries, keys and values in one).
                        The scale is 1 / r. embeddings.embeddings and embeddings.indices change rows of the token table
    community           lora_prior_unet_<name>.lora_down.weight, .lora_up.weight, .alpha, dots in the name as
                        underscores, lora_prior_te_<name> for the text encoder. The scale is alpha / r, without alpha 1
    PEFT, diffusers     <prefix><name>.lora_A.weight, .lora_B.weight, and the same scale

A weight W becomes W + weight * scale * up @ down.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cascade_batch.errors import WeightsError
from cascade_batch.layouts.recognition import first_keys
from cascade_batch.layouts.renames import JOINED, SPLIT, original_name
from cascade_batch.layouts.shapes import Shapes

TARGETS = ("stage_c", "text_encoder")
PREFIXES = (
    ("lora_prior_unet_", "stage_c"),
    ("lora_unet_", "stage_c"),
    ("lora_prior_te_", "text_encoder"),
    ("lora_te_", "text_encoder"),
    ("base_model.model.", "stage_c"),
    ("base_model.model.", "text_encoder"),
    ("prior.", "stage_c"),
    ("unet.", "stage_c"),
    ("diffusion_model.", "stage_c"),
    ("text_encoder.", "text_encoder"),
    ("", "stage_c"),
    ("", "text_encoder"),
)
"""What may stand before a name, and whose weight it is then."""
DOWN = (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight")
UP = (".lora_up.weight", ".lora_B.weight", ".lora_B.default.weight", ".lora.up.weight")
ALPHA = ".alpha"
OFFICIAL = re.compile(r"weights\.(\d+)\.lora_(down|up)")
EMBEDDINGS, INDICES = "embeddings.embeddings", "embeddings.indices"


@dataclass(frozen=True)
class Change:
    """One low-rank change of one or more weights of a network."""

    target: str
    """stage_c or text_encoder."""
    weights: tuple[str, ...]
    """Diffusers names; `up` has the rows of all of them, in this order."""
    down: str
    up: str
    alpha: str | None
    """The key of its alpha; None: `scale_without_alpha`."""
    rank: int
    is_official: bool

    def scale(self, alpha: float | None) -> float:
        """What up @ down is multiplied by, besides the LoRA's weight."""
        if self.is_official:
            return 1 / self.rank
        return 1.0 if alpha is None else alpha / self.rank


def changes_of(lora: Shapes, networks: Mapping[str, Shapes], where: str) -> list[Change]:
    """Every change in a LoRA file.

    Args:
        lora: the file's keys and shapes.
        networks: weights of Stage C and the text encoder under their diffusers names.

    Raises:
        WeightsError: a key that changes nothing here, a half of a pair, or a pair that fits no weight's shape.
    """
    pairs, used = _pairs(lora)
    names = {target: _spellings(shapes, target) for target, shapes in networks.items()}
    order = _official_order(networks["stage_c"])
    changes, unknown = [], []
    for base, (down, up) in pairs.items():
        found = _official(base, order) if OFFICIAL.fullmatch(down) else _named(base, names)
        if found is None:
            unknown += [down, up]
            continue
        target, weights = found
        alpha = base + ALPHA if base + ALPHA in lora else None
        used |= {base + ALPHA}
        is_official = OFFICIAL.fullmatch(down) is not None
        changes.append(Change(target, weights, down, up, alpha, lora[down][0], is_official))
    unknown += [key for key in lora if key not in used | {EMBEDDINGS, INDICES}]
    if unknown or not (changes or EMBEDDINGS in lora):
        raise WeightsError(
            "this LoRA changes what this model does not have",
            where=where,
            got=first_keys(unknown) or "no key of a LoRA",
            expected="changes of Stage C and its text encoder",
            next_step="is it a LoRA for Stable Cascade, and for a Stage C of this size?",
        )
    for change in changes:
        _check_shapes(change, lora, networks[change.target], where)
    return changes


def _pairs(lora: Shapes) -> tuple[dict[str, tuple[str, str]], set[str]]:
    """Base name -> keys of its two halves, and all keys that are halves of a whole pair."""
    pairs = {}
    for key in lora:
        if OFFICIAL.fullmatch(key) and key.endswith("lora_down"):
            base, up = key.removesuffix(".lora_down"), key.removesuffix("down") + "up"
        else:
            ending = next((ending for ending in DOWN if key.endswith(ending)), None)
            if ending is None:
                continue
            base = key.removesuffix(ending)
            up = base + UP[DOWN.index(ending)]
        if up in lora:
            pairs[base] = (key, up)
    return pairs, {key for pair in pairs.values() for key in pair}


def _spellings(shapes: Shapes, target: str) -> dict[str, tuple[str, ...]]:
    """How a LoRA may call each weight -> the weights that it means, in the order of its rows."""
    spellings: dict[str, list[str]] = {}
    for key in shapes:
        if not key.endswith("weight") or len(shapes[key]) < 2:
            continue
        original, _ = original_name(key, target)
        original = original.replace(JOINED + "weight", JOINED.removesuffix("_") + ".weight")
        for name in {key, original}:
            spellings.setdefault(name.removesuffix(".weight"), []).append(key)
    named = {name: tuple(sorted(keys, key=_rank_of_split)) for name, keys in spellings.items()}
    return named | {name.replace(".", "_"): keys for name, keys in named.items()}


def _rank_of_split(key: str) -> int:
    return next((number for number, split in enumerate(SPLIT) if split in key), 0)


def _named(
    base: str, names: Mapping[str, Mapping[str, tuple[str, ...]]]
) -> tuple[str, tuple[str, ...]] | None:
    for prefix, target in PREFIXES:
        name = base.removeprefix(prefix)
        if base.startswith(prefix) and name in names[target]:
            return target, names[target][name]
    return None


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


def _official(base: str, order: list[tuple[str, ...]]) -> tuple[str, tuple[str, ...]] | None:
    number = int(base.split(".")[1])
    return ("stage_c", order[number]) if number < len(order) else None


def _check_shapes(change: Change, lora: Shapes, network: Shapes, where: str) -> None:
    down, up = lora[change.down], lora[change.up]
    rows = sum(network[weight][0] for weight in change.weights)
    inner = network[change.weights[0]][1:]
    fits = down[1:] in (inner, inner[:1]) if len(inner) == 1 else down[1:] == inner
    if not fits or up[:2] != (rows, down[0]) or any(side != 1 for side in (*up[2:], *down[2:])):
        raise WeightsError(
            "a LoRA's change does not fit its weight",
            where=where,
            got=f"{change.down} {list(down)}, {change.up} {list(up)}",
            expected=f"[r, {', '.join(map(str, inner))}] and [{rows}, r] for {' + '.join(change.weights)}",
            next_step="is it a LoRA for a Stage C of this size?",
        )
