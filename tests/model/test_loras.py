"""Every format of LoRA names the weights it changes, and a key that changes nothing is an error that names it."""

from collections.abc import Mapping

import pytest

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts.lora_layouts import Change, changes_of
from tests.model.published import Shapes, original_shapes, published_shapes

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
        ("lora_prior_unet_down_blocks_0_2_attention_attn_to_q", ("lora_down", "lora_up")),
        ("lora_unet_down_blocks_0_2_attention_attn_to_q", ("lora_down", "lora_up")),
        ("lycoris_down_blocks_0_2_attention_to_q", ("lora_down", "lora_up")),
        ("diffusion_model.down_blocks.0.2.attention.attn.to_q", ("lora_A", "lora_B")),
        ("model.diffusion_model.down_blocks.0.2.attention.attn.to_q", ("lora_down", "lora_up")),
        ("unet.down_blocks.0.2.attention.attn.in_proj.0", ("lora_down", "lora_up")),
        ("unet.down_blocks.0.2.attention.processor.to_q_lora", ("down", "up")),
    ],
)
def test_the_other_spellings(base: str, halves: tuple[str, str]) -> None:
    (change,) = changes(pair(base, 2048, 2048, halves=halves))
    assert (change.target, change.weights) == ("stage_c", (f"{BLOCK}to_q.weight",))
    assert change.scale(None) == 1.0


@pytest.mark.parametrize("spelling", ["attention.attn.out_proj", "attention.to_out.0", "attention.to_out"])
def test_the_spellings_of_the_output(spelling: str) -> None:
    for base in (
        f"unet.down_blocks.0.2.{spelling}",
        f"lora_prior_unet_down_blocks.0.2.{spelling}".replace(".", "_"),
    ):
        (change,) = changes(pair(base, 2048, 2048))
        assert change.weights == (f"{BLOCK}to_out.0.weight",)


@pytest.mark.parametrize("third", range(3))
def test_the_spellings_of_keys_and_values(third: int) -> None:
    letter = "qkv"[third]
    for spelling in (f"attn_to_{letter}", f"attn_in_proj_{third}", f"to_{letter}"):
        (change,) = changes(pair(f"lora_prior_unet_down_blocks_0_2_attention_{spelling}", 2048, 2048))
        assert change.weights == (f"{BLOCK}to_{letter}.weight",)


@pytest.mark.parametrize(
    "prefix",
    ["lora_prior_te_", "lora_te_", "lora_te1_", "lora_te2_", "text_encoder.", "clip_g.", "clip_g.transformer.",
     "text_encoders.clip_g.transformer.", "base_model.model.", "lycoris_", ""],
)  # fmt: skip
def test_the_text_encoder_by_every_name(prefix: str) -> None:
    name = TEXT.replace(".", "_") if prefix.endswith("_") else TEXT
    (change,) = changes(pair(prefix + name, 1280, 1280))
    assert (change.target, change.weights) == ("text_encoder", (f"{TEXT}.weight",))


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
        ({**pair("clf.1", 16, 2048), "clf.1.on_input": (16,)}, r"clf\.1\.on_input"),
        (
            {"lora_unet_clf_1.oft_blocks": (4, 4, 4), "lora_unet_clf_1.alpha": ()},
            "oft_blocks, lora_unet_clf_1.alpha",
        ),
        ({"lora_unet_clf_1.hada_w1_a": (16, 4), "lora_unet_clf_1.hada_w1_b": (4, 2048)}, "hada_w1_a"),
        ({"lora_unet_clf_1.lokr_w1": (4, 4)}, "lokr_w1"),
        ({"lora_unet_clf_1.dora_scale": (16, 1)}, "dora_scale"),
        ({"bundle_emb.cat.clip_g": (2, 1280)}, r"bundle_emb\.cat\.clip_g"),
        ({"clf.1.weight": (16, 2048, 1, 1)}, r"clf\.1\.weight"),  # a checkpoint, not a LoRA
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
        {**pair("lora_unet_clip_txt_mapper", 2048, 1280), "lora_unet_clip_txt_mapper.dora_scale": (1280, 1)},
        {**pair("lora_unet_clip_txt_mapper", 2048, 1280), "lora_unet_clip_txt_mapper.alpha": (2,)},
        {**pair("lora_unet_clip_txt_mapper", 2048, 1280), "lora_unet_clip_txt_mapper.lora_mid.weight": (4, 3, 1, 1)},
        {"lora_unet_clip_txt_mapper.lokr_w1": (4, 4), "lora_unet_clip_txt_mapper.lokr_w2": (512, 512)},
        {"lora_unet_clip_txt_mapper.lokr_w1": (), "lora_unet_clip_txt_mapper.lokr_w2": (512, 320)},
        {f"lora_unet_clip_txt_mapper.hada_{half}": shape for half, shape in
         {"w1_a": (2048, 4), "w1_b": (4, 1280), "w2_a": (2048, 4), "w2_b": (5, 1280)}.items()},
    ],
)  # fmt: skip
def test_a_change_of_another_size_is_refused(lora: Shapes) -> None:
    with pytest.raises(WeightsError, match="does not fit its weight"):
        changes(lora)
