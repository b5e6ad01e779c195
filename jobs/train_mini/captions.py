"""Scenes in plain, varied English; every word has one token of its own in the tokenizer."""

from random import Random

from jobs.train_mini.world import Scene, Thing

OPENINGS = (
    "",
    "",
    "",
    "a picture of ",
    "a photo of ",
    "an image of ",
    "a drawing of ",
    "an illustration of ",
)
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
PLURALS = {"cross": "crosses"}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "medium": ("medium",), "large": ("large", "big", "huge")}
PLACE_WORDS = {
    "middle": ("in the middle", "in the center"),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "top left": ("in the top left corner", "at the top left"),
    "top right": ("in the top right corner", "at the top right"),
    "bottom left": ("in the bottom left corner", "at the bottom left"),
    "bottom right": ("in the bottom right corner", "at the bottom right"),
}
RELATION_WORDS = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}
SIDE_BY_SIDE = ("and", "and", "next to", "beside", "with")
GROUND_WORDS = ("on a {} background", "against a {} background", "on {}", "with a {} background")
PATTERN_WORDS = {
    "plain": ("", "", "", "plain "),
    "striped": ("striped ",),
    "checkered": ("checkered ",),
    "dotted": ("dotted ",),
}
KNOWN_WORDS = frozenset(
    word
    for part in (
        "a an the of in on at with and to it its is are there side by photo picture image drawing illustration "
        "one two three four five background circle square triangle star cross heart circles squares triangles "
        "stars crosses hearts shape shapes grey",
        "red orange yellow green blue purple pink brown black white gray",
        *OPENINGS,
        *(word for words in SIZE_WORDS.values() for word in words),
        *(word for words in PLACE_WORDS.values() for word in words),
        *(word for words in RELATION_WORDS.values() for word in words),
        *SIDE_BY_SIDE,
        *(words.replace("{}", "") for words in GROUND_WORDS),
        *(word for words in PATTERN_WORDS.values() for word in words),
    )
    for word in part.split()
)


def caption(scene: Scene, rng: Random) -> str:
    """What the scene states, in one of many wordings."""
    first, *rest = (thing_words(thing, rng) for thing in scene.things)
    text = rng.choice(OPENINGS) + first
    if scene.place:
        text += " " + rng.choice(PLACE_WORDS[scene.place])
    if rest:
        link = RELATION_WORDS[scene.relation] if scene.relation else SIDE_BY_SIDE
        text += f" {rng.choice(link)} {rest[0]}"
    if scene.said_ground:
        ground = rng.choice(PATTERN_WORDS[scene.pattern]) + _spelled(scene.ground, rng)
        text += " " + rng.choice(GROUND_WORDS).format(ground)
    return text + rng.choice(("", "", "."))


def thing_words(thing: Thing, rng: Random) -> str:
    """ "a small red circle", "three squares"."""
    count = len(thing.centres)
    words = [NUMBERS[count]] if count > 1 else []
    words += [rng.choice(SIZE_WORDS[thing.size])] if thing.said_size else []
    words += [thing.colour] if thing.said_colour else []
    words.append(thing.shape if count == 1 else PLURALS.get(thing.shape, thing.shape + "s"))
    if count == 1:
        words.insert(0, "an" if words[0][0] in "aeiou" else "a")
    return " ".join(words)


def _spelled(colour: str, rng: Random) -> str:
    return "grey" if colour == "gray" and rng.random() < 0.3 else colour
