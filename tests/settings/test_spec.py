"""The spec: precedence, strict keys, exact types, and what a resume may change."""

import pickle

import pytest

from cascade_batch.errors import SpecError
from cascade_batch.model.texts import PUBLISHED, TextOptions
from cascade_batch.settings import (
    Spec,
    differing_fields,
    load_spec,
    spec_from_dict,
    spec_to_dict,
    text_options_of,
)


def test_later_sources_win() -> None:
    text = "render: {width: 512, height: 512}\nseed: 1\n"
    spec = load_spec(text, ["render.width=640", "seed=2"], {"seed": 3})
    assert (spec.render.width, spec.render.height, spec.seed) == (640, 512, 3)


def test_defaults_are_the_published_pipelines() -> None:
    render = Spec().render
    assert (render.width, render.prior_steps, render.prior_guidance_scale) == (1024, 20, 4.0)
    assert (render.decoder_steps, render.decoder_guidance_scale) == (10, 0.0)


def test_a_plain_dtype_sets_both_stages() -> None:
    dtype = load_spec("model: {dtype: bfloat16}").model.dtype
    assert (dtype.c, dtype.ba) == ("bfloat16", "bfloat16")


@pytest.mark.parametrize(
    ("text", "sets", "needles"),
    [
        ("rendr: {}", [], ["rendr", "did you mean render?"]),
        ("", ["render.widht=512"], ["render.widht", "did you mean width?"]),
        ("render: {width: wide}", [], ["render.width", "'wide'", "int"]),
        ("render: {width: true}", [], ["render.width", "True", "int"]),
        ("render: {prior_guidance_scale: 1e-4}", [], ["YAML reads 1e-4 as a string"]),
        ("render: {width: 1000}", ["render.height=1001"], ["render.height", "1001", "use 1000"]),
        ("", ["pools.c.actors=0"], ["pools.c.actors", "0"]),
        ("", ["pools.c.batch=0"], ["pools.c.batch", "0", "1 to"]),
        ("", ["pools.ba.batch=prob"], ["pools.ba.batch", "prob", "a number, auto or probe"]),
        ("", ["pools.ba.batch=1.5"], ["pools.ba.batch", "int or str"]),
        ("", ["pools.c.actors=3", "pools.c.max_actors=2"], ["pools.c.max_actors", "3 to"]),
        ("", ["pools.ba.max_actors=0"], ["pools.ba.max_actors", "1 to"]),
        ("", ["log.level=inf"], ["log.level", "did you mean info?"]),
        ("", ["limits.attempts=1"], ["limits.attempts", "2 to"]),
        ("", ["seed"], ["--set needs key=value"]),
        ("", ["seed=2", "seed.a=1"], ["plain value", "seed = 2"]),
        ("- a list", [], ["tree of keys"]),
        ("a: [", [], ["not valid YAML"]),
        ("prompts: {columns: {prompt: 3}}", [], ["prompts.columns", "3", "str"]),
        ("text: {long_prompts: window}", [], ["text.long_prompts", "did you mean windows?"]),
        ("", ["text.weigthing=true"], ["text.weigthing", "did you mean weighting?"]),
        ("", ["text.weighting=1"], ["text.weighting", "bool"]),
        ("", ["model.dtype.ba=fp16"], ["model.dtype.ba", "did you mean float16?"]),
    ],
)
def test_bad_input_is_named(text: str, sets: list[str], needles: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(text, sets)
    for needle in needles:
        assert needle in str(caught.value)


def test_float16_on_stage_c_is_refused_with_the_reason() -> None:
    with pytest.raises(SpecError, match="outgrow float16"):
        load_spec("model: {dtype: float16}")
    assert load_spec("model: {dtype: {ba: float16}}").model.dtype.ba == "float16"


def test_texts_are_read_as_the_spec_says() -> None:
    assert text_options_of(Spec().text) == PUBLISHED
    assert text_options_of(load_spec("text: {long_prompts: windows, weighting: true}").text) == TextOptions(
        "windows", True
    )


def test_round_trip_through_plain_values() -> None:
    spec = load_spec("prompts: {columns: {prompt: caption}, limit: 5}\npools: {c: {gpus: 0.5}}")
    assert spec_from_dict(spec_to_dict(spec)) == spec


def test_a_resume_may_change_pools_limits_and_logs_only() -> None:
    stored = load_spec("")
    free = [
        "pools.c.actors=3",
        "pools.c.max_actors=9",
        "pools.ba.gpus=0.5",
        "pools.rates_from=a",
        "pools.c.batch=9",
        "limits.attempts=5",
        "log.level=debug",
        "prompts.uri=b",
    ]
    assert differing_fields(stored, load_spec("", free)) == {}
    wanted = load_spec("prompts: {columns: {prompt: caption}}", ["render.width=512", "seed=1"])
    assert differing_fields(stored, wanted) == {
        "prompts.columns": ({}, {"prompt": "caption"}),
        "render.width": (1024, 512),
        "seed": (0, 1),
    }


def test_errors_survive_pickling_with_their_fields() -> None:
    error = SpecError("what", where="here", got=1, expected="two", next_step="do")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is SpecError
    assert (str(copy), copy.where, copy.got) == (str(error), "here", 1)
