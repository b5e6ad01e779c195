"""Image ids are safe and unique for any prompt id, seeds never move, and hash64 tells texts apart."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_batch.model.seeds import SEED_LIMIT, image_seed
from cascade_batch.run.ids import hash64, image_id

ODD_IDS = [
    "",
    "../../etc/passwd",
    "a/b",
    "a\0b",
    "x" * 1000,
    "ünï/cödé",
    "🙂" * 300,
    "nul.x",
    ".hidden",
    "_x",
    "CON",
    "-rf",
]
unicode_text = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("prompt_id", ODD_IDS)
def test_odd_ids_make_safe_names(prompt_id: str) -> None:
    name = image_id(prompt_id, 12)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)
    assert len((name + ".01234567.png").encode()) <= 255
    assert ".." not in name
    assert name.endswith("-12")


@given(unicode_text, unicode_text, st.integers(0, 10**6), st.integers(0, 10**6))
def test_image_ids_are_unique(a: str, b: str, i: int, j: int) -> None:
    assert (image_id(a, i) == image_id(b, j)) == ((a, i) == (b, j))


def test_image_id_and_seed_are_promises() -> None:
    """Known values: a change here moves every stored key and every default seed."""
    assert image_id("cat 7", 3) == "cat_7-5b9ca2a7a1e1df83e36f0dd8-3"
    assert image_seed(0, "cat 7", None, 0) == 8341492944125400213


def test_seeds_count_up_and_wrap() -> None:
    assert [image_seed(0, "a", 5, i) for i in range(3)] == [5, 6, 7]
    assert image_seed(0, "a", SEED_LIMIT - 1, 1) == 0
    first = image_seed(1, "a", None, 0)
    assert image_seed(1, "a", None, 4) == (first + 4) % SEED_LIMIT
    assert first not in (image_seed(2, "a", None, 0), image_seed(1, "b", None, 0))


@given(st.lists(unicode_text, max_size=30), st.integers(0, 5))
def test_hash64_is_equal_exactly_for_equal_texts(texts: list[str], cut: int) -> None:
    hashes = hash64(pa.array(texts, pa.string()))
    assert len(set(hashes.tolist())) == len(set(texts))
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        assert np.array_equal(hash64(pa.array(texts, kind)[cut : cut + 9]), hashes[cut : cut + 9])


def test_hash64_has_no_collision_among_a_million_near_texts() -> None:
    numbers = pa.array(np.arange(1_000_000)).cast(pa.string())
    assert len(np.unique(hash64(numbers))) == 1_000_000
