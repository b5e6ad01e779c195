"""A model of a small world warns once, with an example, before anything is spent; other models never warn."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from cascade_batch import weights
from cascade_batch.cli import main
from cascade_batch.cli.showing import PlainObserver
from cascade_batch.pipeline import sitting
from cascade_batch.pipeline.runners.runner import Runner
from cascade_batch.plan import worlds
from cascade_batch.settings import ModelSpec, PromptsSpec, Spec, load_spec
from tests.prompts.writing import opened, write
from tests.run.runs import QUICK, render, write_prompts

WORDS = "a an and the on of picture background red blue white two circle circles square squares"
WORLD = {
    "about": "flat shapes in plain colours",
    "words": WORDS.split(),
    "nouns": ["circle", "circles", "square", "squares"],
}
INSIDE = ["a red circle", "Two blue squares on a white background.", "a picture of a red square and a circle"]
CAT = "a photograph of a cat"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model with a world of its own."""
    folder = tmp_path_factory.mktemp("models") / "small"
    shutil.copytree(weights.EMBEDDED / "tiny", folder)
    (folder / worlds.FILE).write_text(json.dumps(WORLD))
    return str(folder)


def warning(model: str, prompts: object, limit: int | None = None) -> str | None:
    spec = Spec(prompts=PromptsSpec(limit=limit))
    return worlds.warning(weights.locate(ModelSpec(name=model))["stage_c"], opened(prompts), spec)


@pytest.mark.parametrize(
    ("prompt", "outside"),
    [
        *((prompt, False) for prompt in INSIDE),
        ("", False),
        (CAT, True),
        ("a red", True),
        ("a square 赤い", True),
        ("a shiny circle", True),
        ("a red circle and a shiny blue square", False),
        ("a red circle and a shiny new square", True),
    ],
)
def test_a_prompt_is_outside_by_unknown_words_or_without_a_noun(prompt: str, outside: bool) -> None:
    world = worlds.World(WORLD["about"], frozenset(WORLD["words"]), frozenset(WORLD["nouns"]))
    assert world.is_outside(prompt) == outside


def test_a_run_warns_once_with_an_example(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path, 4, prompt=[INSIDE[0], CAT, None, "a dog and\na bone"])
    out, flag = str(tmp_path / "run"), f"--model={model}"
    assert render(prompts, out, flag) == 0
    error = capsys.readouterr().err
    assert error.count("warning:") == 1
    assert "this model only knows flat shapes in plain colours" in error
    assert f'2 of the first 3 prompts, for example "{CAT}"' in error
    assert "--model PATH" in error
    (tmp_path / "run/manifest/shard-00000001.parquet").unlink()
    assert render(prompts, out, flag) == 0  # a sitting that goes on
    assert "only knows" not in capsys.readouterr().err


def test_the_warning_comes_before_any_runner_is_made(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So it is the same for every runner."""
    prompts = write_prompts(tmp_path, 2, prompt=[CAT, CAT])
    settings = [f"prompts.uri={prompts}", f"output.uri={tmp_path / 'run'}", f"model.name={model}"]

    def no_runner() -> Runner:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sitting.render(load_spec("", settings), no_runner, PlainObserver())
    assert CAT in capsys.readouterr().err


def test_plan_says_it_too(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = write_prompts(tmp_path, 2, prompt=[INSIDE[0], CAT])
    assert main(["plan", str(prompts), *QUICK, f"--model={model}"]) == 0
    text = capsys.readouterr().out
    assert text.count("only knows") == 1
    assert CAT in text


@pytest.mark.parametrize("chosen", ["small", "tiny", "small with another Stage C"])
def test_no_warning_for_prompts_inside_or_models_without_a_world(
    chosen: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path, 3, prompt=INSIDE if chosen == "small" else [CAT] * 3)
    flags = ["--model=tiny"] if chosen == "tiny" else [f"--model={model}"]
    if chosen == "small with another Stage C":
        flags.append(f"--set=model.stage_c={weights.EMBEDDED}/tiny/prior")
    assert main(["plan", str(prompts), *QUICK, *flags]) == 0
    assert render(prompts, str(tmp_path / "run"), *flags) == 0
    printed = capsys.readouterr()
    assert "only knows" not in printed.out + printed.err


def test_only_the_first_prompts_are_read(model: str, tmp_path: Path) -> None:
    texts = [INSIDE[0]] * worlds.PROMPTS_CHECKED + [CAT]
    write(tmp_path / "many", "a.parquet", {"prompt": texts}, row_group_size=300)
    assert warning(model, tmp_path / "many") is None
    for number in range(worlds.FILES_CHECKED + 1):
        write(tmp_path / "files", f"{number}.parquet", {"prompt": [CAT if number else INSIDE[0]]})
    told = warning(model, tmp_path / "files")
    assert told is not None
    assert f"{worlds.FILES_CHECKED - 1} of the first {worlds.FILES_CHECKED} prompts" in told
    assert warning(model, tmp_path / "files", limit=1) is None


@pytest.mark.parametrize(
    "column",
    [
        pa.array([INSIDE[0], CAT]).dictionary_encode(),
        pa.array([INSIDE[0], CAT], pa.large_string()),
        pa.array([INSIDE[0].encode(), CAT.encode(), b"\xff"]).view(pa.string()),
    ],
)
def test_texts_of_any_layout_are_read(column: pa.Array, model: str, tmp_path: Path) -> None:
    uri = write(tmp_path, "p.parquet", {"prompt": column})
    assert "1 of the first 2 prompts" in str(warning(model, uri))


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"about": "shapes"}', '{"about": 1, "words": 2, "nouns": 3}']
)
def test_a_world_that_cannot_be_read_is_named(
    content: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / worlds.FILE).write_text(content)
    assert main(["plan", str(write_prompts(tmp_path, 1)), *QUICK, f"--model={broken}"]) == 2
    assert f"{broken}/{worlds.FILE}" in capsys.readouterr().err
