"""Whether a model's parts are whole, and made for each other, told before any weights are read.

Every network is built on the meta device and compared with its files' headers, then with its neighbours: each is
conditioned on what another one gives.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from cascade_batch.engine.control_inputs import check_kind
from cascade_batch.engine.loading.checkpoints import load_tokenizer, outline
from cascade_batch.engine.networks.controlnet import ControlNet
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.errors import WeightsError
from cascade_batch.model.config import STAGE_A, STAGE_C
from cascade_batch.model.geometry import STAGE_B_COMPRESSION
from cascade_batch.model.parts import PartFiles

if TYPE_CHECKING:  # seconds of a start
    from transformers import CLIPTokenizer

WIDTHS = (
    ("text_encoder", "hidden_size", "stage_c", "clip_text_in_channels"),
    ("text_encoder", "projection_dim", "stage_c", "clip_text_pooled_in_channels"),
    ("text_encoder", "projection_dim", "stage_b", "clip_text_pooled_in_channels"),
    ("image_encoder", "projection_dim", "stage_c", "clip_image_in_channels"),
    ("effnet_encoder", "latent_channels", "stage_c", "in_channels"),
    ("stage_c", "in_channels", "stage_c", "out_channels"),
    ("stage_c", "out_channels", "stage_b", "effnet_in_channels"),
    ("stage_b", "in_channels", "stage_b", "out_channels"),
    ("stage_b", "out_channels", "stage_a", "latent_channels"),
)
"""What one network gives, and what another takes: their config's fields must be equal."""
SPARE_ROWS = 1024
"""Rows of a token table beyond its tokenizer's tokens that are let pass: learned tokens, padding to round numbers."""
UNTOLD = 2
"""The `eos_token_id` of configs from before transformers knew better."""


def check_parts(parts: Mapping[str, PartFiles]) -> None:
    """Raises WeightsError, or SpecError for a ControlNet of an unknown kind, naming the tensor or the two parts."""
    networks: dict[str, nn.Module] = {}
    for name, part in parts.items():
        if name != "tokenizer":
            networks[name] = outline(name, part.config, part.files).network
    _check_widths({name: cast(Any, network.config) for name, network in networks.items()}, parts)
    if "controlnet" in networks and "stage_c" in networks:
        net = cast(ControlNet, networks["controlnet"])
        check_kind(net.config)
        cast(StageC, networks["stage_c"]).check_controls(net.config.blocks, net.config.out_channels)
    if "tokenizer" in parts:
        tokenizer = load_tokenizer(parts["tokenizer"].folder)
        tower = networks.get("text_encoder")
        _check_tokenizer(tokenizer, None if tower is None else tower.config, parts)


def _check_widths(configs: Mapping[str, Any], parts: Mapping[str, PartFiles]) -> None:
    for giver, given, taker, taken in WIDTHS:
        if giver in configs and taker in configs:
            _check_equal(
                (giver, given, getattr(configs[giver], given)),
                (taker, taken, getattr(configs[taker], taken)),
                ", ".join(dict.fromkeys(str(parts[name].folder) for name in (giver, taker))),
            )
    if "stage_c" in configs:  # embeddings are stored as 16 channels
        published = ("embeddings", "channels", STAGE_C.out_channels)
        own = ("stage_c", "out_channels", configs["stage_c"].out_channels)
        _check_equal(own, published, str(parts["stage_c"].folder))
    if "stage_a" in configs:
        config, where = configs["stage_a"], str(parts["stage_a"].folder)
        scale = 2 ** (config.levels - 1) * config.up_down_scale_factor
        _check_equal(
            ("stage_a", "enlargement", scale), ("pictures", "pixels per latent", STAGE_B_COMPRESSION), where
        )
        own = ("stage_a", "out_channels", config.out_channels)
        _check_equal(own, ("pictures", "channels", STAGE_A.out_channels), where)


def _check_equal(giver: tuple[str, str, int], taker: tuple[str, str, int], where: str) -> None:
    if giver[2] != taker[2]:
        raise WeightsError(
            f"{giver[0]} and {taker[0]} are not made for each other",
            where=where,
            got="{}.{} = {}".format(*giver),
            expected="{}.{} = {}".format(*taker),
            next_step="take both parts from one model",
        )


def _check_tokenizer(tokenizer: "CLIPTokenizer", config: Any, parts: Mapping[str, PartFiles]) -> None:
    """Every token must have its row, and the end be where the text encoder's config says, if that says anything."""
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if None in (start, end, tokenizer.pad_token_id) or _framed(tokenizer) != (start, end):
        raise _strange(parts, "it does not put texts between a start and an end token", "CLIP's tokenizer")
    if config is None:
        return
    rows, tokens, told = config.vocab_size, len(tokenizer), parts["text_encoder"].config
    if not tokens <= rows <= tokens + SPARE_ROWS:
        raise _strange(parts, f"{tokens} tokens", f"the {rows} of the text encoder's table")
    noted = None if told is None else told.get("eos_token_id")
    if noted not in (None, UNTOLD, end):
        raise _strange(parts, f"end token {end}", f"{noted}, the text encoder's eos_token_id")


def _framed(tokenizer: "CLIPTokenizer") -> tuple[int, int]:
    ids = cast(list[int], tokenizer("a")["input_ids"])
    return (ids[0], ids[-1]) if len(ids) > 2 else (-1, -1)


def _strange(parts: Mapping[str, PartFiles], got: str, expected: str) -> WeightsError:
    return WeightsError(
        "the tokenizer is not the text encoder's",
        where=str(parts["tokenizer"].folder),
        got=got,
        expected=expected,
        next_step="take both from one model: model.tokenizer, model.text_encoder",
    )
