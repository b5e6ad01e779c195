"""What a LoRA file changes, and how, in the formats that are about. No torch here.

    official trainer    weights.N.lora_down [r, in], weights.N.lora_up [out, r]; N counts the projections of Stage C's
                        attention in module order, two each: out_proj, then in_proj (queries, keys and values in one).
                        The scale is 1 / r. embeddings.embeddings and embeddings.indices change rows of the token table
    community           lora_prior_unet_<name>.lora_down.weight, .lora_up.weight, .alpha, dots in the name as
                        underscores, lora_prior_te_<name> for the text encoder. The scale is alpha / r, without alpha 1
    PEFT, diffusers     <prefix><name>.lora_A.weight, .lora_B.weight; alpha is told elsewhere (`lora_strength`)
    LyCORIS             hada_* (LoHa), lokr_* (LoKr), lora_mid (Tucker's form of a convolution), diff, dora_scale

A weight W becomes W + weight * scale * change, where the change of a LoRA is up @ down. With a magnitude m (DoRA) it
becomes W + weight * (m * V / |V| - W), V = W + scale * change. `engine.loading.lora_changes` has the formulas.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts.lora_names import OFFICIAL, PEFT_PREFIX, TARGETS, Names
from cascade_batch.model.layouts.recognition import first_keys
from cascade_batch.model.layouts.shapes import Shapes

__all__ = ["EMBEDDINGS", "INDICES", "TARGETS", "Change", "changes_of"]

EMBEDDINGS, INDICES = "embeddings.embeddings", "embeddings.indices"
HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
TUCKER = ("hada_t1", "hada_t2")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
ROLES = {
    ".lora_down.weight": "down", ".lora_up.weight": "up", ".lora_mid.weight": "mid",
    ".lora_down": "down", ".lora_up": "up",
    ".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_B.bias": "up_bias",
    ".lora.down.weight": "down", ".lora.up.weight": "up",
    "_lora.down.weight": "down", "_lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down", ".lora_linear_layer.up.weight": "up",
    **{f".{name}": name for name in (*HADA, *TUCKER, *LOKR)},
    ".diff": "diff", ".w_norm": "diff", ".diff_b": "bias", ".b_norm": "bias",
    ".alpha": "alpha",
    ".dora_scale": "magnitude", ".lora_magnitude_vector": "magnitude", ".lora_magnitude_vector.weight": "magnitude",
}  # fmt: skip
"""Ending of a key -> what the tensor is in its change."""
BIAS_ALONE = "bias alone"
KINDS = {
    ("down", "up"): "lora",
    ("down", "mid", "up"): "lora",
    HADA: "loha",
    (*TUCKER, *HADA): "loha",
    ("lokr_w1", "lokr_w2"): "lokr",
    ("lokr_w1", "lokr_w2_a", "lokr_w2_b"): "lokr",
    ("lokr_t2", "lokr_w1", "lokr_w2_a", "lokr_w2_b"): "lokr",
    ("lokr_w1_a", "lokr_w1_b", "lokr_w2"): "lokr",
    ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"): "lokr",
    ("lokr_t2", "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"): "lokr",
    ("diff",): "diff",
    (): BIAS_ALONE,
}
"""The tensors that a whole change is made of, sorted -> its kind."""
BESIDE = ("alpha", "magnitude", "up_bias", "bias")
"""What may come beside them."""


@dataclass(frozen=True)
class Change:
    """One change of one or more weights of a network."""

    target: str
    """stage_c or text_encoder."""
    weights: tuple[str, ...]
    """Diffusers names; the change has the rows of all of them, in this order."""
    kind: str
    """lora, loha, lokr, diff, or value: what the weights become, where PEFT saved whole modules."""
    keys: Mapping[str, str]
    """Role (`ROLES`) -> key of the tensor in the file."""
    module: str
    """What the file calls the weight's module, without a prefix."""
    rank: int | None = None
    """None where the tensors do not tell one."""
    magnitude_axis: int | None = None
    """Of a DoRA's magnitude: 0, a number for each row, or 1, for each input channel."""
    is_official: bool = False
    is_from_peft: bool = False
    """Of PEFT's own spelling, whose alpha is never among the tensors."""

    @property
    def alpha(self) -> str | None:
        """The key of its alpha."""
        return self.keys.get("alpha")

    def scale(self, alpha: float | None) -> float:
        """What the change is multiplied by, besides the LoRA's weight; without alpha as the community reads it."""
        if self.is_official and self.rank:
            return 1 / self.rank
        return 1.0 if alpha is None or not self.rank else alpha / self.rank


def changes_of(lora: Shapes, networks: Mapping[str, Shapes], where: str) -> list[Change]:
    """Every change in a LoRA file.

    Args:
        lora: the file's keys and shapes.
        networks: weights of Stage C and the text encoder under their diffusers names.

    Raises:
        WeightsError: a key that changes nothing here, an unwhole change, or one that fits no weight's shape.
    """
    names, lora = Names(networks), {key: shape for key, shape in lora.items() if not _is_copy(key, lora)}
    changes = list(_whole_values(lora, networks))
    for base, keys in _grouped(lora).items():
        changes += _changes(base, keys, names, lora, networks)
    known = {key for change in changes for key in change.keys.values()}
    unknown = [key for key in lora if key not in known | {EMBEDDINGS, INDICES}]
    if unknown or not (changes or EMBEDDINGS in lora):
        raise WeightsError(
            "this LoRA changes what this model does not have",
            where=where,
            got=first_keys(unknown) or "no key of a LoRA",
            expected="changes of Stage C and its text encoder, as LoRA, DoRA, LoHa or LoKr",
            next_step="is it a LoRA for Stable Cascade, and for a Stage C of this size?",
        )
    for change in changes:
        _check_shapes(change, lora, networks[change.target], where)
    return changes


def _is_copy(key: str, lora: Shapes) -> bool:
    """Whether PEFT saved a module of `modules_to_save` again under a longer name; the unchanged one, too."""
    plain = key.replace(".modules_to_save.", ".").replace(".original_module.", ".")
    return plain != key and plain in lora


def _whole_values(lora: Shapes, networks: Mapping[str, Shapes]) -> Iterator[Change]:
    """What PEFT saves of `modules_to_save`, and of biases that were trained: the parameters themselves."""
    for key in lora:
        if not key.startswith(PEFT_PREFIX):
            continue
        name = key.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")
        target = next((target for target in TARGETS if name in networks[target]), None)
        if target is not None:
            module = name.rpartition(".")[0]
            yield Change(target, (name,), "value", {"value": key}, module, is_from_peft=True)


def _grouped(lora: Shapes) -> dict[str, dict[str, str]]:
    """Base name -> role -> key."""
    groups: dict[str, dict[str, str]] = {}
    for key in lora:
        plain = key.removesuffix(".default").replace(".default.", ".")
        ending = next((ending for ending in ROLES if plain.endswith(ending)), None)
        if ending is not None:
            groups.setdefault(plain.removesuffix(ending), {})[ROLES[ending]] = key
    return groups


def _changes(
    base: str, keys: Mapping[str, str], names: Names, lora: Shapes, networks: Mapping[str, Shapes]
) -> Iterator[Change]:
    """The change of a weight, and that of its bias; none if it is not whole or nothing has its name."""
    kind, found = KINDS.get(tuple(sorted(keys.keys() - set(BESIDE)))), names.find(base)
    if kind is None or found is None:
        return
    target, weights, module = found
    rank, network = _rank(keys, lora), networks[target]
    is_from_peft = _is_from_peft(base, module, keys)
    if kind != BIAS_ALONE:
        tensors = {role: key for role, key in keys.items() if role not in ("up_bias", "bias")}
        axis = _magnitude_axis(tensors, lora, network, weights)
        is_official = OFFICIAL.fullmatch(base) is not None
        yield Change(
            target,
            weights,
            kind,
            tensors,
            module,
            rank=rank,
            magnitude_axis=axis,
            is_official=is_official,
            is_from_peft=is_from_peft,
        )
    biases = tuple(f"{weight.removesuffix('weight')}bias" for weight in weights)
    if not all(bias in network for bias in biases):
        return
    if "up_bias" in keys:  # of the same scale as the change beside it
        alpha = {"alpha": keys["alpha"]} if "alpha" in keys else {}
        bias = {"diff": keys["up_bias"], **alpha}
        yield Change(target, biases, "diff", bias, module, rank=rank, is_from_peft=is_from_peft)
    if "bias" in keys:
        yield Change(target, biases, "diff", {"diff": keys["bias"]}, module)


def _is_from_peft(base: str, module: str, keys: Mapping[str, str]) -> bool:
    """Whether PEFT itself wrote a change: under its prefix, with an adapter's name, or its names and nothing else."""
    is_bare = base == module and any(".lora_A." in key for key in keys.values())
    return is_bare or base.startswith(PEFT_PREFIX) or any(".default" in key for key in keys.values())


def _rank(keys: Mapping[str, str], lora: Shapes) -> int | None:
    """The side that is summed over."""
    inner = next(
        (keys[role] for role in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if role in keys), None
    )
    return lora[inner][0] if inner is not None and lora[inner] else None


def _magnitude_axis(
    tensors: Mapping[str, str], lora: Shapes, network: Shapes, weights: tuple[str, ...]
) -> int | None:
    """LyCORIS has [rows, 1, ...] or [1, channels, ...]; PEFT [rows], of a convolution [1, rows, 1, 1]."""
    if "magnitude" not in tensors:
        return None
    shape, is_peft = lora[tensors["magnitude"]], "lora_magnitude_vector" in tensors["magnitude"]
    rows, channels = sum(network[weight][0] for weight in weights), network[weights[0]][1:2]
    if shape in ((rows,), (rows, *[1] * (len(shape) - 1))) or (is_peft and shape == (1, rows, 1, 1)):
        return 0
    return 1 if shape == (1, *channels, *[1] * (len(shape) - 2)) else None


def _check_shapes(change: Change, lora: Shapes, network: Shapes, where: str) -> None:
    rows = sum(network[weight][0] for weight in change.weights)
    columns = prod(network[change.weights[0]][1:])
    shapes = {role: lora[key] for role, key in change.keys.items()}
    fits = prod(shapes.get("alpha", ())) == 1
    if "magnitude" in change.keys and change.magnitude_axis is None:
        fits = False
    if not fits or _size(shapes) != (rows, columns):
        raise WeightsError(
            "a LoRA's change does not fit its weight",
            where=where,
            got=", ".join(f"{key} {list(lora[key])}" for key in change.keys.values()),
            expected=f"a change of {rows} x {columns} for {' + '.join(change.weights)}",
            next_step="is it a LoRA for a Stage C of this size?",
        )


def _size(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """Rows and columns of the change that tensors of these shapes make, None if they do not fit each other."""
    match shapes:
        case {"up": up, "mid": mid, "down": down}:
            return _tucker(mid, up[1::-1], down)
        case {"up": up, "down": down}:
            return _product(up, down)
        case {"hada_t1": t1, "hada_t2": t2}:
            one = _tucker(t1, shapes["hada_w1_a"], shapes["hada_w1_b"])
            return one if one == _tucker(t2, shapes["hada_w2_a"], shapes["hada_w2_b"]) else None
        case {"hada_w1_a": a, "hada_w1_b": b}:
            one = _product(a, b)
            return one if one == _product(shapes["hada_w2_a"], shapes["hada_w2_b"]) else None
        case {"diff": whole} | {"value": whole}:
            return (whole[0], prod(whole[1:])) if whole else None
    one, two = _kron_side(shapes, "lokr_w1", "lokr_t1"), _kron_side(shapes, "lokr_w2", "lokr_t2")
    return (one[0] * two[0], one[1] * two[1]) if one and two else None


def _kron_side(shapes: Mapping[str, tuple[int, ...]], name: str, core: str) -> tuple[int, int] | None:
    if name in shapes:
        whole = shapes[name]
        return (whole[0], prod(whole[1:])) if len(whole) > 1 else None
    a, b = shapes[f"{name}_a"], shapes[f"{name}_b"]
    return _tucker(shapes[core], a, b) if core in shapes else _product(a, b)


def _product(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, int] | None:
    """Of [rows, r, 1, ...] and [r, columns, ...]."""
    match a, b:
        case (rows, r, *ones), (s, *columns) if columns and r == s and prod(ones) == 1:
            return rows, prod(columns)
    return None


def _tucker(core: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, int] | None:
    """Of [r, s, height, width], [r, rows] and [s, channels, 1, 1]."""
    match core, a, b:
        case (r, s, *kernel), (own_r, rows), (own_s, channels, *ones) if (r, s) == (own_r, own_s):
            return (rows, channels * prod(kernel)) if prod(ones) == 1 else None
    return None
