"""How far the checker can be trusted: pictures drawn right, and drawn wrong on purpose, and what it says of them.

Run:  python -m jobs.evaluate.validate [--scenes 1000]     some five minutes on a free core

Every scene of the training world is judged against all that it holds, said in its caption or not: as drawn;
then as a decoder might render it, with soft, overshooting edges and noise; then both with one thing wrong.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from random import Random

import numpy as np
from PIL import Image, ImageFilter

from jobs.evaluate.checker import look
from jobs.evaluate.judging import Verdict, judge
from jobs.evaluate.prompts import expectation
from jobs.evaluate.wrongs import WRONGS
from jobs.train_mini.drawing import draw
from jobs.train_mini.world import Scene, any_scene

SIDE = 1024
BLUR = 3.0
"""Standard deviation of the soft edges, pixels."""
OVERSHOOT = 10
"""Edges overshoot by one part in so many."""
NOISE = 7
"""Evenly distributed up to so many levels of 255, a standard deviation of 4.3."""


def drawn(scene: Scene) -> np.ndarray:
    """The scene, (1024, 1024, 3) uint8."""
    return (draw(scene, SIDE, SIDE) * 255).round().astype(np.uint8)


def as_rendered(picture: np.ndarray, seed: int) -> np.ndarray:
    """The picture with soft edges that overshoot a little on both sides, and noise."""
    image = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(BLUR))
    soft, wider = (np.asarray(i, dtype=np.int16) for i in (image, image.filter(ImageFilter.BoxBlur(10))))
    noise = np.random.default_rng(seed).integers(-NOISE, NOISE, picture.shape, dtype=np.int8, endpoint=True)
    return (soft + (soft - wider) // OVERSHOOT + noise).clip(0, 255).astype(np.uint8)


def fully_said(scene: Scene) -> Scene:
    """The scene as if its caption named every colour and size, and the ground."""
    things = tuple(replace(thing, said_colour=True, said_size=True) for thing in scene.things)
    return replace(scene, things=things, said_ground=True)


def verdicts(asked: Scene, shown: Scene, seed: int) -> dict[str, Verdict]:
    """What is said of one scene's picture by all that another holds: as drawn, and as rendered."""
    expects, picture = expectation(fully_said(asked)), drawn(shown)
    return {
        "as drawn": judge(look(picture), expects),
        "as rendered": judge(look(as_rendered(picture, seed)), expects),
    }


def wrong_scenes(scenes: Iterable[Scene], rng: Random) -> Iterator[tuple[Scene, Scene, str]]:
    """Each scene with one wrong version of it, the kinds in turn as far as they fit, and the kind's name."""
    used = dict.fromkeys(WRONGS, 0)
    for scene in scenes:
        options = [(change, wrong) for change in WRONGS if (wrong := change(scene, rng))]
        change, wrong = min(options, key=lambda option: used[option[0]])
        used[change] += 1
        yield scene, wrong, change.__name__


def main() -> None:
    parser = argparse.ArgumentParser(description="Validate the checker on drawn pictures.")
    parser.add_argument("--scenes", type=int, default=1000)
    rng = Random(1)
    scenes = [any_scene(rng) for _ in range(parser.parse_args().scenes)]
    right, told = defaultdict(list), defaultdict(list)
    for seed, (scene, wrong, kind) in enumerate(wrong_scenes(scenes, rng)):
        for way, verdict in verdicts(scene, scene, seed).items():
            for name in ("right", "ground_right", "size_right", "place_right"):
                right[way, name].append(getattr(verdict, name))
            if not verdict.right:
                print(f"{way}, {verdict.why}: {scene}")
        for way, verdict in verdicts(scene, wrong, seed).items():
            told[way, kind].append(not verdict.right)
            if verdict.right:
                print(f"{way}, {kind} not seen: {scene}")
    _print("right pictures judged right", right)
    _print("wrong pictures judged wrong", told)


def _print(title: str, judged: Mapping[tuple[str, str], list[bool | None]]) -> None:
    print(title)
    for (way, name), answers in sorted(judged.items()):
        known = [answer for answer in answers if answer is not None]
        print(
            f"  {way:<12} {name:<17} {sum(known):>5} of {len(known):>5}  {100 * sum(known) / len(known):6.2f} %"
        )


if __name__ == "__main__":
    main()
