"""`prior`'s conditions besides texts, from any of their forms to arrays with an entry per image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade_batch.api import arguments as args
from cascade_batch.api import scalars
from cascade_batch.engine import pictures
from cascade_batch.engine.batches import Conditions
from cascade_batch.errors import SpecError
from cascade_batch.model.conditions import check_together, strength_of
from cascade_batch.model.geometry import ENCODER_STRIDE, embedding_side
from cascade_batch.settings import values


@dataclass(frozen=True)
class Asked:
    """How many images of which size a call asks for."""

    prompts: int
    copies: int
    height: int
    width: int
    image_size: Callable[[], int]
    """Side of the pictures that the model's image encoder takes; asked for only if there are some."""

    @property
    def images(self) -> int:
        return self.prompts * self.copies

    def states(self, given: args.Array | None, dimensions: int, name: str) -> np.ndarray | None:
        return args.states_of(given, dimensions, self.prompts, self.copies, name)

    def cut(self, given: Any, name: str, how: Callable = pictures.covering) -> np.ndarray | None:
        """One picture per image, at the size that the encoders of pictures look at."""
        found = args.one_each(given, self.prompts, self.copies, name)
        area = [embedding_side(side) * ENCODER_STRIDE for side in (self.width, self.height)]
        if found is None:
            return None
        with pictures.refusing(name):
            return np.stack([how(one, *area) for one in found])

    def crops(self, given: Any) -> np.ndarray | None:
        """Pictures to vary, as CLIP looks at them."""
        if given is None:
            return None
        return args.clip_crops(args.picture_sets(given, self.prompts), self.image_size(), self.copies)


def conditions_of(
    asked: Asked,
    *,
    images: Any = None,
    image_embeds: args.Array | None = None,
    prompt_embeds: args.Array | None = None,
    prompt_embeds_pooled: args.Array | None = None,
    negative_prompt_embeds: args.Array | None = None,
    negative_prompt_embeds_pooled: args.Array | None = None,
    init_image: Any = None,
    strength: float | None = None,
    mask: Any = None,
    control_image: Any = None,
    control_strength: float = 1.0,
    latents: args.Array | None = None,
    sca: float = 0.0,
    crp: float = 0.0,
    timesteps: Sequence[float] | None = None,
) -> Conditions:
    """Conditions of a batch of `asked.images`. Raises SpecError for what does not go together."""
    columns = {"init_image": init_image, "mask": mask, "control_image": control_image}
    columns |= {"strength": strength, "prior_timesteps": timesteps}
    check_together([name for name, value in columns.items() if value is not None], "timesteps")
    factors = np.full(asked.images, values.real("control_strength", control_strength), np.float32)
    return Conditions(
        prompt_embeds=asked.states(prompt_embeds, 3, "prompt_embeds"),
        prompt_embeds_pooled=asked.states(prompt_embeds_pooled, 2, "prompt_embeds_pooled"),
        negative_prompt_embeds=asked.states(negative_prompt_embeds, 3, "negative_prompt_embeds"),
        negative_prompt_embeds_pooled=asked.states(
            negative_prompt_embeds_pooled, 2, "negative_prompt_embeds_pooled"
        ),
        images=asked.crops(images),
        image_embeds=args.image_embeds_of(image_embeds, asked.prompts, asked.copies),
        init_images=asked.cut(init_image, "init_image"),
        strength=1.0 if init_image is None else strength_of(strength, mask is not None),
        masks=asked.cut(mask, "mask", pictures.brightness),
        control_images=asked.cut(control_image, "control_image"),
        control_strengths=None if control_image is None else factors,
        latents=scalars.numbers_of("latents", latents, (4,)),
        sca=values.real("sca", sca),
        crp=values.real("crp", crp),
        timesteps=scalars.times_of(timesteps),
    )


def pooled_of(
    encode: Callable[[list[str]], np.ndarray], asked: tuple, avoided: tuple, images: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled states of the prompts and negative prompts of `decode`, one per image: given ones, else encoded."""
    (prompt, embeds, pooled), (negative, negative_embeds, negative_pooled) = asked, avoided
    if embeds is not None and pooled is None:
        raise SpecError(
            "the decoder sees only pooled states", got="prompt_embeds", expected="prompt_embeds_pooled"
        )
    if negative_embeds is not None and negative_pooled is None:
        raise SpecError(
            "the decoder sees only pooled states",
            got="negative_prompt_embeds",
            expected="negative_prompt_embeds_pooled",
        )
    prompts = scalars.prompts_of(prompt, pooled)
    if images % len(prompts):
        raise SpecError(
            "embeddings do not match the prompts",
            got=f"{images} images",
            expected=f"a multiple of {len(prompts)}",
        )
    negatives = scalars.negatives_of(negative, negative_pooled, len(prompts))
    copies = images // len(prompts)
    found = args.states_of(pooled, 2, len(prompts), copies, "prompt_embeds_pooled")
    found_negative = args.states_of(negative_pooled, 2, len(prompts), copies, "negative_prompt_embeds_pooled")
    if found is None or found_negative is None:
        written = encode([*prompts, *negatives])
        found = np.repeat(written[: len(prompts)], copies, 0) if found is None else found
        if found_negative is None:
            found_negative = np.repeat(written[len(prompts) :], copies, 0)
    return found, found_negative
