"""Parts are told apart by their keys alone, in both layouts, behind any prefix, several in one file."""

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_stable_cascade_unet_single_file_to_diffusers

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts import Found, recognise, strangers
from tests.model.published import (
    PUBLISHED,
    Shapes,
    Tensors,
    original_shapes,
    original_weights,
    part_of,
    published_shapes,
    small_weights,
)

TENSORS_IN_ORIGINAL = {
    "stage_c": 1294, "stage_c_lite": 654, "stage_b": 1454, "stage_b_lite": 826, "stage_a": 122,
}  # fmt: skip


def only(shapes: Shapes) -> Found:
    (found,) = recognise(shapes, "a file")
    assert strangers(shapes, [found]) == []
    return found


def shapes_of(tensors: Tensors, prefix: str = "") -> Shapes:
    return {prefix + key: tuple(tensor.shape) for key, tensor in tensors.items()}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_in_both_layouts(name: str, prefix: str) -> None:
    shapes, part = published_shapes(name), part_of(name)
    original = original_shapes(shapes, part)
    assert len(original) == TENSORS_IN_ORIGINAL[name]
    for stored, layout in ((shapes, "diffusers"), (original, "original")):
        found = only({prefix + key: shape for key, shape in stored.items()})
        assert (found.part, found.layout, found.prefix) == (part, layout, prefix)
        assert found.shapes == shapes


@pytest.mark.parametrize("name", ["stage_c", "stage_c_lite", "stage_b", "stage_b_lite"])
def test_the_way_from_the_original_layout_is_that_of_diffusers(name: str) -> None:
    original = original_weights(small_weights(name), part_of(name))
    theirs = convert_stable_cascade_unet_single_file_to_diffusers(dict(original))
    found = only(shapes_of(original))
    assert found.shapes == shapes_of(theirs)
    for key, source in found.sources.items():
        stored = original[source.key]
        rows = source.shape[0]
        ours = stored if source.third is None else stored[source.third * rows : (source.third + 1) * rows]
        assert torch.equal(ours, theirs[key]), key


def test_a_community_file_with_every_part() -> None:
    text = shapes_of(small_weights("text_encoder"), "text_encoder.clip_g.transformer.")
    text["text_encoder.clip_g.text_projection"] = text.pop(
        "text_encoder.clip_g.transformer.text_projection.weight"
    )
    stored = {
        **shapes_of(original_weights(small_weights("stage_c"), "stage_c"), "model.diffusion_model."),
        **text,
        "text_encoder.clip_g.logit_scale": (),
        **shapes_of(original_weights(small_weights("stage_a"), "stage_a"), "vae."),
        "clip_l_vision.vision_model.embeddings.class_embedding": (8,),
    }
    found = {each.part: each for each in recognise(stored, "a file")}
    assert found.keys() == {"stage_c", "text_encoder", "stage_a", "image_encoder"}
    assert strangers(stored, list(found.values())) == []
    for part in ("stage_c", "text_encoder", "stage_a"):
        assert found[part].shapes == shapes_of(small_weights(part))
    projection = found["text_encoder"].sources["text_projection.weight"]
    assert projection.is_transposed
    assert projection.key == "text_encoder.clip_g.text_projection"


def test_keys_of_no_part_are_named() -> None:
    stored = {**shapes_of(small_weights("stage_b"), "net."), "epoch": (), "ema.clf.1.bias": (3,)}
    (found,) = recognise(stored, "a file")
    assert strangers(stored, [found]) == ["epoch", "ema.clf.1.bias"]
    assert recognise({"lora.up": (3,)}, "a file") == []


def test_two_of_a_kind_are_refused() -> None:
    stored = shapes_of(small_weights("stage_a"), "vae.") | shapes_of(small_weights("stage_a"), "old.")
    with pytest.raises(WeightsError, match=r"stage_a behind 'vae\.', stage_a behind 'old\.'"):
        recognise(stored, "a file")
