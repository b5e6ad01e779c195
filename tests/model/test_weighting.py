"""Weights in a prompt: what is syntax, what is text, and that no prompt is an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_batch.model.weighting import pieces, without_weights


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("", []),
        ("a red circle", [("a red circle", 1.0)]),
        ("a (red:1.3) circle", [("a ", 1.0), ("red", 1.3), (" circle", 1.0)]),
        ("(red)", [("red", 1.1)]),
        ("[red]", [("red", 1 / 1.1)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("(a (red:2) circle:0.5)", [("a ", 0.5), ("red", 1.0), (" circle", 0.5)]),
        ("(a [red])", [("a ", 1.1), ("red", 1.1 * (1 / 1.1))]),
        ("(red:1)", [("red", 1.0)]),
        ("a (red:1.0) circle", [("a red circle", 1.0)]),
        ("(red: .5 )", [("red", 0.5)]),
        ("(red:2.)", [("red", 2.0)]),
        ("(red:0)", [("red", 0.0)]),
        (r"a \(red\) circle", [("a (red) circle", 1.0)]),
        (r"(a \(red\):1.5)", [("a (red)", 1.5)]),
        (r"\[fernando\] \\ \n", [(r"[fernando] \ \n", 1.0)]),
        (r"(red:1.3\)", [("(red:1.3)", 1.0)]),
        ("(red", [("(red", 1.0)]),
        ("red)", [("red)", 1.0)]),
        ("red:1.3)", [("red:1.3)", 1.0)]),
        ("(red:1.3", [("(red:1.3", 1.0)]),
        ("((red)", [("(", 1.0), ("red", 1.1)]),
        ("(a [red) circle]", [("a [red", 1.1), (" circle]", 1.0)]),
        ("(red:-1)", [("red:-1", 1.1)]),
        ("(red:1.2.3)", [("red:1.2.3", 1.1)]),
        ("(note: red)", [("note: red", 1.1)]),
        ("[red:0.5]", [("red:0.5", 1 / 1.1)]),
        ("()[](:2)", []),
        ("at 9:30 :)", [("at 9:30 :)", 1.0)]),
    ],
)
def test_what_is_syntax_and_what_is_text(prompt: str, wanted: list[tuple[str, float]]) -> None:
    assert pieces(prompt) == [(words, pytest.approx(weight)) for words, weight in wanted]


@given(st.text(alphabet="()[]\\:.1a ,"))
def test_any_prompt_is_read_and_only_syntax_is_lost(prompt: str) -> None:
    found = pieces(prompt)
    kept = iter(prompt)
    assert all(character in kept for words, _ in found for character in words)  # in order
    assert all(words and weight >= 0 for words, weight in found)
    assert prompt.count("a") == without_weights(prompt).count("a")


@given(st.text(alphabet="()[]\\:.1a ,"))
def test_escaping_keeps_a_prompt_as_it_is(prompt: str) -> None:
    escaped = "".join("\\" + character if character in "()[]\\" else character for character in prompt)
    assert without_weights(escaped) == prompt
    assert len(pieces(escaped)) <= 1


def test_ten_thousand_brackets_are_read() -> None:
    ((word, weight),) = pieces("[" * 10_000 + "red" + "]" * 10_000)
    assert word == "red"
    assert 0 <= weight < 1e-300
    assert without_weights("[(" * 10_000 + ")" * 20_000) == "[" * 10_000 + ")" * 10_000
