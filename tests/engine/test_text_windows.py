"""Long texts in windows and weighted words, against each window encoded by transformers alone."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cascade_batch.engine.batches import PriorBatch
from cascade_batch.engine.networks.text import TextEncoder
from cascade_batch.engine.networks.windows import cut
from cascade_batch.engine.prior import Prior
from cascade_batch.errors import SpecError
from cascade_batch.model.texts import TextOptions
from tests.engine.oracle import model_parts, relative_error, text_parts

WINDOWS = TextOptions(long_prompts="windows")
WEIGHTED = TextOptions(weighting=True)
BOTH = TextOptions("windows", True)
SHORT = "a red dog, and the old house"
# Every word and comma of these is one token. 75 fit into a window, whose last third starts after the 50th.
FIRST = "a red city on the sea, " * 7 + "a blue dog,"  # 53 tokens, the last a comma
SECOND = "the old red dog " * 18 + "in the sea"  # 75 tokens, no comma
THIRD = "and the blue house of the old dog, " * 7 + "a city in the sea and"  # 69 tokens
LONG = f"{FIRST} {SECOND} {THIRD}"


@pytest.fixture(scope="module")
def parts() -> tuple:
    return text_parts()


def encoder(parts: tuple, options: TextOptions = TextOptions()) -> TextEncoder:  # noqa: B008
    tokenizer, tower = parts
    return TextEncoder(tower, tokenizer, options)


def alone(parts: tuple, text: str) -> tuple[Tensor, Tensor]:
    """What transformers makes of a text: (77, channels) and (channels,)."""
    tokenizer, tower = parts
    padded = tokenizer([text], padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    output = tower(**padded, output_hidden_states=True)
    return output.hidden_states[-1][0], output.text_embeds[0]


@torch.inference_mode()
def test_every_window_is_a_text_of_its_own(parts: tuple) -> None:
    assert len(LONG.replace(",", "").split()) > 180
    seen = encoder(parts, WINDOWS).encode([LONG, SHORT])
    assert seen.states.shape == (2, 3 * 77, parts[1].config.hidden_size)
    expected = [alone(parts, text)[0] for text in (FIRST, SECOND, THIRD)]
    assert relative_error(seen.states[0], torch.cat(expected)) < 1e-5
    filled = [alone(parts, text)[0] for text in (SHORT, "", "")]
    assert relative_error(seen.states[1], torch.cat(filled)) < 1e-5
    pooled = torch.stack([alone(parts, text)[1] for text in (FIRST, SHORT)])
    assert relative_error(seen.pooled, pooled) < 1e-5
    assert seen.tokens == [53 + 75 + 69 + 2, 10]
    assert (seen.truncated, seen.windows) == ([False, False], [3, 1])


@pytest.mark.parametrize("options", [TextOptions(), WINDOWS, WEIGHTED, BOTH])
@torch.inference_mode()
def test_plain_short_texts_keep_every_bit(parts: tuple, options: TextOptions) -> None:
    texts = [SHORT, "", "  Odd   spacing — naïve 日本 é"]
    states, pooled = (torch.stack(each) for each in zip(*(alone(parts, text) for text in texts), strict=True))
    seen = encoder(parts, options).encode(texts)
    assert torch.equal(seen.states, states)
    assert torch.equal(seen.pooled, pooled)


@torch.inference_mode()
def test_a_text_passes_the_tower_once_and_alone(parts: tuple) -> None:
    texts, passed = encoder(parts), []
    hook = parts[1].register_forward_pre_hook(
        lambda _, args, named: passed.append((args or (named["input_ids"],))[0].shape[0]), with_kwargs=True
    )
    seen = texts.encode([SHORT, "", SHORT, ""])
    again = texts.encode([SHORT])
    hook.remove()
    assert passed == [1, 1]
    assert torch.equal(seen.states[0], seen.states[2])
    assert torch.equal(seen.states[:1], again.states)
    assert torch.equal(seen.pooled[:1], again.pooled)


@torch.inference_mode()
def test_a_long_text_is_truncated_unless_asked_otherwise(parts: tuple) -> None:
    seen = encoder(parts).encode([LONG, SHORT])
    assert relative_error(seen.states[0], alone(parts, LONG)[0]) < 1e-5
    assert (seen.truncated, seen.windows) == ([True, False], [1, 1])
    assert seen.tokens[0] == 53 + 75 + 69 + 2


@pytest.mark.parametrize(
    ("words", "windows"), [("", 1), ("red " * 75, 1), ("red " * 76, 2), ("red " * 150, 2), ("red " * 151, 3)]
)
def test_windows_are_counted_before_encoding(parts: tuple, words: str, windows: int) -> None:
    assert encoder(parts, WINDOWS).windows(words) == windows
    assert encoder(parts).windows(words) == 1


def test_a_word_is_cut_only_if_it_is_longer_than_a_window() -> None:
    def cuts(text: str, room: int = 6) -> list[str]:
        tokens = text.split()
        return [" ".join(tokens[part]) for part in cut(tokens, room, {"[new]"})]

    assert cuts("a</w> b</w> c</w> d</w> e f g</w> h</w>") == ["a</w> b</w> c</w> d</w>", "e f g</w> h</w>"]
    assert cuts("a b c d e f g h</w>") == ["a b c d e f", "g h</w>"]
    assert cuts("a</w> b</w> c</w> d</w> ,</w> f</w> g</w>") == [
        "a</w> b</w> c</w> d</w> ,</w>",
        "f</w> g</w>",
    ]
    assert cuts("a</w> ,</w> c</w> d</w> e</w> f</w> g</w>") == [
        "a</w> ,</w> c</w> d</w> e</w> f</w>",
        "g</w>",
    ]
    assert cuts("a</w> b</w> c</w> [new] e f g</w>") == ["a</w> b</w> c</w> [new]", "e f g</w>"]


@given(st.lists(st.sampled_from(["x", "y</w>", ",</w>"])), st.integers(1, 9))
def test_windows_hold_every_token_once(tokens: list[str], room: int) -> None:
    windows = [tokens[part] for part in cut(tokens, room)]
    assert [token for window in windows for token in window] == tokens
    assert all(0 < len(window) <= room for window in windows) or not tokens


def changed(seen: Tensor, plain: Tensor) -> list[int]:
    """Positions whose states differ in any bit."""
    return (seen != plain).any(-1).nonzero().flatten().tolist()


@pytest.mark.parametrize("weight", [1.5, 0.5, 0.0])
@torch.inference_mode()
def test_a_weight_moves_its_words_and_nothing_else(parts: tuple, weight: float) -> None:
    # Tokens: start a red dog , and the old house end
    plain = encoder(parts).encode([SHORT, SHORT])
    seen = encoder(parts, WEIGHTED).encode([SHORT, f"a (red dog:{weight}), and the old house"])
    nothing = alone(parts, "")[0]
    assert changed(seen.states[0], plain.states[0]) == []
    assert changed(seen.states[1], plain.states[1]) == [2, 3]
    expected = nothing[2:4] + weight * (plain.states[1, 2:4] - nothing[2:4])
    torch.testing.assert_close(seen.states[1, 2:4], expected)
    assert torch.equal(seen.pooled, plain.pooled)
    assert seen.tokens == plain.tokens


@torch.inference_mode()
def test_weight_1_keeps_every_bit(parts: tuple) -> None:
    plain = encoder(parts).encode([SHORT])
    for text in ("a (red:1) dog, (and (the old:1.0) house:1)", "a re(d do:1)g, and the old house"):
        seen = encoder(parts, WEIGHTED).encode([text])
        assert torch.equal(seen.states, plain.states)
        assert seen.tokens == plain.tokens


@torch.inference_mode()
def test_weights_reach_every_window(parts: tuple) -> None:
    plain = encoder(parts, WINDOWS).encode([LONG])
    seen = encoder(parts, BOTH).encode([f"(a:2){LONG[1:-11]}(the sea and:2)"])
    assert seen.tokens == plain.tokens
    assert seen.windows == [3]
    assert changed(seen.states[0], plain.states[0]) == [1, 2 * 77 + 67, 2 * 77 + 68, 2 * 77 + 69]


@settings(max_examples=40)
@given(st.lists(st.text(alphabet="()[]\\:.1a ,é\u0301日 \n", max_size=40), min_size=1, max_size=3))
def test_no_text_is_an_error(parts: tuple, texts: list[str]) -> None:
    seen = encoder(parts, BOTH).encode(texts)
    assert not seen.states.isnan().any()


def rendered(prior: Prior, prompts: Sequence[str], negatives: Sequence[str]) -> list[bytes]:
    seeds, guidance = list(range(len(prompts))), [4.0] * len(prompts)
    batch = PriorBatch(list(prompts), list(negatives), seeds, 256, 256, 2, guidance)
    return [embedding.tobytes() for embedding in prior.render(batch).embeddings]


def test_an_image_takes_the_windows_of_the_longer_of_its_texts(parts: tuple) -> None:
    prior = Prior.load(model_parts(), "float32", "cpu", text=WINDOWS)
    assert prior.windows(LONG, SHORT) == prior.windows(SHORT, LONG) == 3
    first, second = rendered(prior, [LONG, LONG], [SHORT, ""])
    assert rendered(prior, [LONG, SHORT], ["", LONG])[0] != first  # another negative prompt
    assert rendered(prior, [LONG, SHORT], [SHORT, LONG])[0] == first
    assert first != second
    with pytest.raises(SpecError, match="text windows"):
        rendered(prior, [LONG, SHORT], ["", ""])
