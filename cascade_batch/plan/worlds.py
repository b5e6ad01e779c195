"""What a small model knows, and a warning for prompts that ask for more.

A model of a small world says what it knows in `world.json`, beside the folders of its parts:

    {"about": "flat shapes in plain colours", "words": ["a", "red", ...], "nouns": ["circle", "circles", ...]}

`about` completes "this model only knows ...". `words` are all that its captions are made of, `nouns`
those of them that name something to draw, singular and plural, all lower case. A model without the file, such as
the published weights, knows no bounds and never warns.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from cascade_batch.errors import WeightsError
from cascade_batch.model.weighting import without_weights
from cascade_batch.prompts import PromptTable, first_prompts
from cascade_batch.settings import Spec
from cascade_batch.storage import Storage
from cascade_batch.weights import Part

FILE = "world.json"
UNKNOWN_SHARE = 0.15
"""A prompt with a larger share of unknown words is outside: one strange word in seven is let pass."""
PROMPTS_CHECKED = 1_000
FILES_CHECKED = 8
"""A courtesy must cost nothing: a table of millions is judged by its first prompts, in its first files."""
LONGEST_EXAMPLE = 120
"""Characters."""


@dataclass(frozen=True)
class World:
    """What a model says that it knows."""

    about: str
    words: frozenset[str]
    nouns: frozenset[str]

    def is_outside(self, prompt: str) -> bool:
        """Whether too many of the prompt's words are unknown, or none of them names a thing of this world.

        A prompt without words asks for nothing, so it is inside.
        """
        words = re.findall(r"\w+", prompt.lower())
        unknown = sum(word not in self.words for word in words)
        return bool(words) and (unknown > UNKNOWN_SHARE * len(words) or self.nouns.isdisjoint(words))


def read_world(stage_c: Part) -> World | None:
    """The world of the model that Stage C comes from, because Stage C decides what a picture shows.

    Only a local model is asked, as embedded ones are: a warning is not worth a request that a store may refuse.
    Raises WeightsError if the file is there but says nothing usable.
    """
    if not Storage(stage_c.uri).is_local:
        return None
    folder = Storage(str(Path(stage_c.uri).parent))
    if not folder.exists(FILE):
        return None
    try:
        tree = json.loads(folder.read(FILE))
        return World(str(tree["about"]), frozenset(tree["words"]), frozenset(tree["nouns"]))
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            "the model's world cannot be read",
            where=folder.url(FILE),
            got=repr(error),
            expected="an object with about, words and nouns",
        ) from None


def warning(stage_c: Part, table: PromptTable, spec: Spec) -> str | None:
    """A plain warning with an example if prompts are outside the model's world, None if all is well.

    Reads the texts of at most `PROMPTS_CHECKED` prompts of the first `FILES_CHECKED` files, whatever the size of
    the table. Uses `prompts.limit` and `text.weighting` of the spec.

    Raises:
        WeightsError: the model's world cannot be read.
        PromptTableError, IntegrityError: a prompt file cannot be read, or has changed.
    """
    world = read_world(stage_c)
    if world is None:
        return None
    rows = PROMPTS_CHECKED if spec.prompts.limit is None else min(spec.prompts.limit, PROMPTS_CHECKED)
    prompts = first_prompts(table, rows, FILES_CHECKED)
    if spec.text.weighting:
        prompts = [without_weights(prompt) for prompt in prompts]
    outside = [prompt for prompt in prompts if world.is_outside(prompt)]
    if not outside:
        return None
    example = " ".join(outside[0].split())
    if len(example) > LONGEST_EXAMPLE:
        example = example[:LONGEST_EXAMPLE].rstrip() + " ..."
    return (
        f"this model only knows {world.about}. Beyond that: {len(outside):,} of the first {len(prompts):,} prompts, "
        f'for example "{example}". For those, name real weights: --model PATH'
    )
