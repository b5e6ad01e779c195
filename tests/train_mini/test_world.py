"""The world that `mini` is trained on: scenes, captions and drawings agree, and the hold-out holds."""

from random import Random

import numpy as np
import pytest

from jobs.train_mini import captions, world
from jobs.train_mini.captions import KNOWN_WORDS, caption
from jobs.train_mini.drawing import draw, draw_at
from jobs.train_mini.tokenizer import LENGTH, make_tokenizer
from jobs.train_mini.world import COLOURS, Scene, Thing, any_scene, breaks_hold_out, training_scene


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = Random(seed)
    return [training_scene(rng) for _ in range(count)]


def one(shape: str, colour: str = "red", x: float = 0.5, y: float = 0.5, ground: str = "white") -> Scene:
    thing = Thing(shape, colour, "medium", ((x, y),), said_colour=True, said_size=False, scale=1.0)
    return Scene((thing,), ground, "plain", said_ground=True, kind="one")


def test_scenes_are_the_same_for_a_seed() -> None:
    assert scenes(50) == scenes(50)
    assert scenes(50) != scenes(50, seed=1)


def test_training_never_shows_a_held_out_combination() -> None:
    assert not any(breaks_hold_out(scene) for scene in scenes(3000))
    rng = Random(3)
    held_out = [scene for scene in (any_scene(rng) for _ in range(3000)) if breaks_hold_out(scene)]
    asked = {(scene.things[0].colour, scene.things[0].shape) for scene in held_out if scene.kind == "one"}
    assert len(asked) >= 3
    assert all(world.is_held_out(*words) for words in asked)


def test_no_thing_has_its_grounds_colour_and_all_lie_in_the_picture() -> None:
    for scene in scenes(1000):
        for thing in scene.things:
            assert thing.colour != scene.ground
            for place in (v for centre in thing.centres for v in centre):
                assert thing.radius * 0.85 < place < 1 - thing.radius * 0.85


def test_what_a_caption_leaves_unsaid_has_a_rule() -> None:
    for scene in scenes(2000):
        for thing in scene.things:
            usual = world.UNSAID_COLOURS[thing.shape]
            assert thing.said_colour or thing.colour == ("black" if scene.ground == usual else usual)
            assert thing.said_size or thing.size == "medium"
        if scene.kind == "pair" and scene.relation is None:
            first, second = (thing.centres[0] for thing in scene.things)
            assert first[0] < 0.35 < 0.65 < second[0]


def test_things_do_not_touch() -> None:
    for scene in scenes(1000):
        spots = [(np.array(c), thing.radius) for thing in scene.things for c in thing.centres]
        for number, (centre, radius) in enumerate(spots):
            for other, reach in spots[:number]:
                assert np.linalg.norm(centre - other) > 1.05 * (radius + reach)


def test_every_word_is_known_and_one_token() -> None:
    tokenizer, rng = make_tokenizer(), Random(1)
    assert [word for word in KNOWN_WORDS if len(tokenizer.tokenize(word)) != 1] == []
    for scene in scenes(2000):
        text = caption(scene, rng)
        words = text.rstrip(".").split()
        assert set(words) <= KNOWN_WORDS, text
        assert len(tokenizer(text)["input_ids"]) == len(words) + 2 + text.endswith(".") <= LENGTH


def test_any_other_text_has_tokens_that_spell_it() -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer("Ein Vogel, 3 cats & l'été 猫")["input_ids"]
    spelled = str(tokenizer.decode(ids, skip_special_tokens=True))
    assert spelled.replace(" ", "") == "einvogel,3cats&l'été猫"


def test_a_caption_says_what_is_said_and_no_more() -> None:
    rng = Random(2)
    for scene in scenes(500):
        words = caption(scene, rng).rstrip(".").replace("grey", "gray").split()
        for thing in scene.things:
            assert any(word.startswith(thing.shape) for word in words)
            assert (thing.colour in words) or not thing.said_colour
        said = {thing.colour for thing in scene.things if thing.said_colour}
        said |= {scene.ground} if scene.said_ground else set()
        assert set(words) & set(COLOURS) == said
        if scene.kind == "count":
            assert captions.NUMBERS[len(scene.things[0].centres)] in words


@pytest.mark.parametrize("shape", world.SHAPES)
def test_a_shape_is_drawn_where_it_belongs(shape: str) -> None:
    picture = draw(one(shape, x=0.3, y=0.6), 256, 256)
    red = np.abs(picture - np.array(COLOURS["red"]) / 255).max(-1) < 0.01
    rows, columns = np.nonzero(red)
    assert abs(rows.mean() / 256 - 0.6) < 0.03
    assert abs(columns.mean() / 256 - 0.3) < 0.01
    area = red.mean() / (np.pi * world.SIZES["medium"] ** 2)
    assert 0.35 < area < 1.1
    assert np.allclose(picture[:100], np.array(COLOURS["white"]) / 255)


def test_all_sides_of_a_wide_picture_keep_shapes_round() -> None:
    picture = draw(one("circle", x=0.25), 128, 256)
    rows, columns = np.nonzero(picture[:, :, 1] < 0.5)
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 1
    assert abs(columns.mean() - 63.5) < 0.6
    assert abs(rows.mean() - 63.5) < 0.6


def test_a_crop_is_what_the_whole_picture_shows_there() -> None:
    scene = scenes(1)[0]
    whole = draw(scene, 256, 256)
    places = (np.arange(256) + 0.5) / 256
    assert np.array_equal(draw_at(scene, places[40:90], places[100:180], 1.0), whole[40:90, 100:180])


@pytest.mark.parametrize("pattern", ["striped", "checkered", "dotted"])
def test_a_pattern_has_two_tones_of_its_ground(pattern: str) -> None:
    thing = one("circle").things[0]
    picture = draw(Scene((thing,), "blue", pattern, True, "one"), 240, 240)
    corner = picture[:60].reshape(-1, 3)
    tones = {tuple(np.round(tone * 255)) for tone in corner if tone.max() < 0.9}
    shares = [(np.abs(corner - tone).max(-1) < 0.01).mean() for tone in (corner.min(0), corner.max(0))]
    assert len(tones) >= 2
    assert all(share > 0.15 for share in shares)
