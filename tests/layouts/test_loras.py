"""Every format of LoRA names the weights it changes, and a key that changes nothing is an error that names it."""

from collections.abc import Mapping

import pytest

from cascade_batch.errors import WeightsError
from cascade_batch.layouts.loras import Change, changes_of
from tests.layouts.published import Shapes, original_shapes, published_shapes

BLOCK = "down_blocks.0.2.attention."
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"
NETWORKS: Mapping[str, Shapes] = {
    "stage_c": published_shapes("stage_c"),
    "text_encoder": {f"{TEXT}.weight": (1280, 1280), f"{TEXT}.bias": (1280,)},
}


def changes(lora: Shapes) -> list[Change]:
    return changes_of(lora, NETWORKS, "lora.safetensors")


def pair(
    base: str, rows: int, columns: int, rank: int = 4, halves: tuple[str, str] = ("lora_down", "lora_up")
) -> Shapes:
    down, up = halves
    return {f"{base}.{down}.weight": (rank, columns), f"{base}.{up}.weight": (rows, rank)}


def official() -> Shapes:
    """A file of the official trainer: of each attention in module order its out_proj, then its in_proj."""
    original = original_shapes(NETWORKS["stage_c"], "stage_c")
    attention = [key.removesuffix("in_proj_weight") for key in original if key.endswith("in_proj_weight")]
    lora = {}
    for number, prefix in enumerate(attention):
        for half, name in enumerate(("out_proj.weight", "in_proj_weight")):
            rows, columns = original[prefix + name]
            lora[f"weights.{2 * number + half}.lora_down"] = (4, columns)
            lora[f"weights.{2 * number + half}.lora_up"] = (rows, 4)
    return lora


def test_the_official_trainer() -> None:
    found = changes(official() | {"embeddings.embeddings": (1, 1280), "embeddings.indices": (1,)})
    assert len(found) == 128
    out, queries_keys_values = found[:2]
    assert (out.target, out.weights) == ("stage_c", (f"{BLOCK}to_out.0.weight",))
    assert queries_keys_values.weights == tuple(f"{BLOCK}to_{letter}.weight" for letter in "qkv")
    assert found[-1].weights[0] == "up_blocks.1.23.attention.to_q.weight"
    assert out.scale(None) == 0.25


@pytest.mark.parametrize(
    ("base", "halves"),
    [
        ("lora_prior_unet_down_blocks_0_2_attention_to_q", ("lora_down", "lora_up")),
        ("prior.down_blocks.0.2.attention.to_q", ("lora_A", "lora_B")),
        ("base_model.model.down_blocks.0.2.attention.to_q", ("lora_A", "lora_B")),
        ("unet.down_blocks.0.2.attention.to_q", ("lora.down", "lora.up")),
        ("diffusion_model.down_blocks.0.2.attention.to_q", ("lora_A", "lora_B")),
        ("down_blocks.0.2.attention.to_q", ("lora_A.default", "lora_B.default")),
    ],
)
def test_the_other_spellings(base: str, halves: tuple[str, str]) -> None:
    (change,) = changes(pair(base, 2048, 2048, halves=halves))
    assert (change.target, change.weights) == ("stage_c", (f"{BLOCK}to_q.weight",))
    assert change.scale(None) == 1.0


@pytest.mark.parametrize("layer", ["down_blocks_0_0_channelwise_4", "clip_txt_mapper", "clf_1"])
def test_any_matrix_may_change(layer: str) -> None:
    name = {"clf_1": "clf.1"}.get(
        layer, layer.replace("down_blocks_0_0_", "down_blocks.0.0.").replace("wise_", "wise.")
    )
    rows, columns, *rest = NETWORKS["stage_c"][f"{name}.weight"]
    base = f"lora_prior_unet_{layer}"
    lora = {f"{base}.lora_down.weight": (2, columns, *rest), f"{base}.lora_up.weight": (rows, 2, *rest)}
    (change,) = changes(lora | {f"{base}.alpha": ()})
    assert change.weights == (f"{name}.weight",)
    assert change.scale(8.0) == 4.0


def test_names_of_the_original_release_and_the_text_encoder() -> None:
    lora = {
        **pair("lora_prior_unet_down_blocks_0_2_attention_attn_out_proj", 2048, 2048),
        **pair("lora_prior_unet_down_blocks_0_2_attention_attn_in_proj", 6144, 2048),
        **pair(f"lora_prior_te_{TEXT.replace('.', '_')}", 1280, 1280),
        **pair(f"text_encoder.{TEXT}", 1280, 1280, halves=("lora_A", "lora_B")),
        **pair(f"base_model.model.{TEXT}", 1280, 1280, halves=("lora_A", "lora_B")),
    }
    out, joined, *text = changes(lora)
    assert out.weights == (f"{BLOCK}to_out.0.weight",)
    assert joined.weights == tuple(f"{BLOCK}to_{letter}.weight" for letter in "qkv")
    assert [(change.target, change.weights) for change in text] == [("text_encoder", (f"{TEXT}.weight",))] * 3


@pytest.mark.parametrize(
    ("lora", "named"),
    [
        ({}, "no key of a LoRA"),
        (pair("lora_unet_input_blocks_4_1_proj_in", 320, 320), "lora_unet_input_blocks_4_1_proj_in"),
        ({**pair("clf.1", 16, 2048), "clf.1.dora_scale": (16,)}, r"clf\.1\.dora_scale"),
        ({"clf.1.lora_down.weight": (4, 2048)}, r"clf\.1\.lora_down\.weight"),
        ({"weights.500.lora_down": (4, 2048), "weights.500.lora_up": (2048, 4)}, r"weights\.500"),
    ],
)
def test_a_key_that_changes_nothing_is_named(lora: Shapes, named: str) -> None:
    with pytest.raises(WeightsError, match=named):
        changes(lora)


@pytest.mark.parametrize(
    "lora",
    [
        pair("down_blocks.0.2.attention.to_q", 1536, 1536),
        pair("lora_prior_unet_down_blocks_0_2_attention_attn_in_proj", 2048, 2048),
        {"down_blocks.0.2.attention.to_q.lora_down.weight": (4, 2048),
         "down_blocks.0.2.attention.to_q.lora_up.weight": (2048, 5)},
    ],
)  # fmt: skip
def test_a_change_of_another_size_is_refused(lora: Shapes) -> None:
    with pytest.raises(WeightsError, match="does not fit its weight"):
        changes(lora)
