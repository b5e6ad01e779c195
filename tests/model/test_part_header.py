"""What the headers of a part's files say together."""

import pytest

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts import Entry, Header, merge, part_header

CODEBOOK = {"vquantizer.codebook.weight": Entry("F32", (8, 4), 128)}
BIAS = {"out_block.0.bias": Entry("BF16", (12,), 24)}


def test_shards_are_one_part() -> None:
    header = part_header(
        "stage_a", {"a": Header(CODEBOOK, {"format": "pt"}), "b": Header(BIAS, {"by": "us"})}
    )
    assert header.found.shapes == {"vquantizer.embedding.weight": (8, 4), "out_block.0.bias": (12,)}
    assert header.merged.files == {"vquantizer.codebook.weight": "a", "out_block.0.bias": "b"}
    assert header.merged.notes == {"format": "pt", "by": "us"}
    assert header.dtype("out_block.0.bias") == "BF16"
    assert header.where == "a, b"


def test_a_key_of_two_files_is_named_with_the_second() -> None:
    with pytest.raises(WeightsError, match="a key is stored twice") as refused:
        merge({"a": Header(CODEBOOK | BIAS, {}), "b": Header(BIAS, {})})
    assert (refused.value.where, refused.value.got) == ("b", "out_block.0.bias")


@pytest.mark.parametrize(
    ("part", "more", "message"),
    [
        ("stage_b", {}, "no stage_b in these weights"),
        ("stage_a", {"scaled_fp8": Entry("F32", (), 4)}, "scaled float8 weights cannot be read"),
    ],
)
def test_files_that_are_not_the_part_alone(part: str, more: dict[str, Entry], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        part_header(part, {"a": Header(CODEBOOK | more, {})})


def test_keys_of_no_part_are_named() -> None:
    clip = {"cond.text_model.embeddings.token_embedding.weight": Entry("F32", (9, 4), 144)}
    held = {f"vae.{key}": entry for key, entry in CODEBOOK.items()}
    with pytest.raises(WeightsError, match="do not fit the network") as refused:
        part_header("stage_a", {"a": Header(held | clip | BIAS, {})})
    assert refused.value.got == "1 unexpected: out_block.0.bias"
