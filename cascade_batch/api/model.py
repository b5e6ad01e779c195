"""A model in this process. The engine is the batch workers' own, so equal calls give equal pictures.

Argument names and their meaning are those of the published pipelines; what these do not have stands behind `*`.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch

from cascade_batch.api import arguments as args
from cascade_batch.api import scalars
from cascade_batch.api.call_conditions import Asked, conditions_of, pooled_of
from cascade_batch.api.callbacks import INPUTS, Callback, on_step_of
from cascade_batch.api.outputs import (
    IMAGE_TYPES,
    PRIOR_TYPES,
    ImagesOutput,
    PriorOutput,
    as_images,
    check_type,
    prior_output,
)
from cascade_batch.api.stages import Stages
from cascade_batch.engine.batches import DecoderBatch, PriorBatch
from cascade_batch.engine.devices import named_device
from cascade_batch.engine.sampler import Generators
from cascade_batch.model.geometry import latent_side
from cascade_batch.model.sampling import Sampling
from cascade_batch.settings import sampling_of, spec_from_dict, values


class Cascade:
    """Text to embeddings (`prior`), embeddings to pictures (`decode`), or both (`render`)."""

    def __init__(self, stages: Stages, sampling: Sampling) -> None:
        """Use `load`."""
        self._stages, self.sampling = stages, sampling

    @classmethod
    def load(
        cls,
        model: str | PathLike[str] = "mini",
        *,
        device: str | int | torch.device = "auto",
        sampler: str | Mapping[str, Any] = "diffusers",
        text: Mapping[str, Any] | None = None,
        low_memory: bool = False,
        **parts: Any,
    ) -> "Cascade":
        """A model by the name, folder, file or URL that the command line takes; weights are read at first use.

        One published repository is enough for its half: `prior` alone, or `decode` alone, without Stage C in memory.

        Args:
            device: such as "cpu", "cuda:1" or a `torch.device`; "auto" takes the accelerator if there is one.
            sampler: a preset, or a tree of the spec's `sampler` keys.
            text: keys of the spec's `text`, such as {"weighting": True}; long prompts of one call get as many windows
                as the longest.
            low_memory: hold one stage at a time, so that a card needs room for the larger one only.
            parts: keys of the spec's `model`: `stage_c`, `image_encoder`, `loras`, `variant`, `dtype` ...; paths may be
                `Path`s, and the dtype torch's.

        Raises:
            SpecError, WeightsError: an unknown key, or a part that is not there.
        """
        chosen = sampler if isinstance(sampler, Mapping) else {"preset": sampler}
        tree = {"model": {"name": model, **parts}, "sampler": chosen, "text": {} if text is None else text}
        spec = spec_from_dict(tree)
        stages = Stages(spec, named_device(device), low_memory)
        return cls(stages, sampling_of(spec.sampler))

    def prior(
        self,
        prompt: scalars.Texts = None,
        images: Any = None,
        height: int = 1024,
        width: int = 1024,
        num_inference_steps: int = 20,
        timesteps: Sequence[float] | None = None,
        guidance_scale: float | Sequence[float] = 4.0,
        negative_prompt: scalars.Texts = None,
        prompt_embeds: scalars.Array | None = None,
        prompt_embeds_pooled: scalars.Array | None = None,
        negative_prompt_embeds: scalars.Array | None = None,
        negative_prompt_embeds_pooled: scalars.Array | None = None,
        image_embeds: scalars.Array | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators | None = None,
        latents: scalars.Array | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = INPUTS,
        *,
        seed: scalars.Seeds = None,
        init_image: Any = None,
        strength: float | None = None,
        mask: Any = None,
        control_image: Any = None,
        control_strength: float = 1.0,
        sca: float = 0.0,
        crp: float = 0.0,
    ) -> PriorOutput | tuple:
        """Embeddings of prompts; image i of prompt p is entry p · num_images_per_prompt + i.

        Args:
            images, image_embeds: pictures to vary, one or several; the same for all prompts, or a list for each.
            seed: of the first image, later ones counting up, or one each, as a prompt table's; instead of `generator`.
            init_image: a picture to start from; `strength` is the share of noise it gets (0.8, or 1 with a mask).
            mask: white where to paint anew.
            control_image: what the model's ControlNet follows, with `control_strength` as a factor.
            sca, crp: numbers beside the time ratio.

        Pictures are PIL images, or arrays and tensors in a shape of `pictures.split` and a range of `pictures.levels`.

        Raises:
            SpecError: arguments out of the ranges of a prompt table's columns, or that do not go together or do not fit
                the model.
            PictureError: a picture that cannot be read, or could mean two.
        """
        check_type(output_type, PRIOR_TYPES)
        on_step = on_step_of(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        height, width = scalars.sides_of(height, width)
        steps = values.whole("prior_steps", num_inference_steps, "num_inference_steps")
        copies = values.whole("num_images", num_images_per_prompt, "num_images_per_prompt")
        prompts = scalars.prompts_of(prompt, prompt_embeds)
        negatives = scalars.negatives_of(negative_prompt, negative_prompt_embeds, len(prompts))
        asked = Asked(len(prompts), copies, height, width, lambda: self._stages.prior().image_size)
        seeds, generators = scalars.drawn_by(generator, seed, asked.images)
        batch = PriorBatch(
            prompts=[text for text in prompts for _ in range(copies)],
            negative_prompts=[text for text in negatives for _ in range(copies)],
            seeds=seeds,
            height=height,
            width=width,
            steps=steps,
            guidance=scalars.scales_of("prior", guidance_scale, asked.images, "guidance_scale"),
            sampling=self.sampling.c,
            conditions=conditions_of(
                asked,
                images=images,
                image_embeds=image_embeds,
                prompt_embeds=prompt_embeds,
                prompt_embeds_pooled=prompt_embeds_pooled,
                negative_prompt_embeds=negative_prompt_embeds,
                negative_prompt_embeds_pooled=negative_prompt_embeds_pooled,
                latents=latents,
                timesteps=timesteps,
                init_image=init_image,
                strength=None if strength is None else values.real("strength", strength),
                mask=mask,
                control_image=control_image,
                control_strength=control_strength,
                sca=sca,
                crp=crp,
            ),
        )
        engine = self._stages.prior()
        texts = engine.encode(batch)
        embeddings = engine.embed(batch, texts, generators, on_step)
        output = prior_output(embeddings, texts, asked.images).as_type(output_type)
        return output if return_dict else output.as_tuple()

    def decode(
        self,
        image_embeddings: scalars.Array | Sequence[scalars.Array],
        prompt: scalars.Texts = None,
        num_inference_steps: int = 10,
        guidance_scale: float | Sequence[float] | None = None,
        negative_prompt: scalars.Texts = None,
        prompt_embeds: scalars.Array | None = None,
        prompt_embeds_pooled: scalars.Array | None = None,
        negative_prompt_embeds: scalars.Array | None = None,
        negative_prompt_embeds_pooled: scalars.Array | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators | None = None,
        latents: scalars.Array | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = INPUTS,
        *,
        height: int | None = None,
        width: int | None = None,
        timesteps: Sequence[float] | None = None,
        seed: scalars.Seeds = None,
        tile: int | None = None,
    ) -> ImagesOutput | tuple:
        """Pictures of embeddings: `num_images_per_prompt` of each, one after the other.

        Only the pooled text state is seen. Embeddings are dealt to the prompts evenly, in order.

        Args:
            guidance_scale: None is the sampler preset's.
            height, width: pixels; None is what the embeddings were made for, rounded up to a multiple of 8.
            tile: side in pixels of the parts that Stage A decodes at a time, for pictures beyond memory.

        Raises:
            SpecError: arguments that do not go together or do not fit the model.
        """
        check_type(output_type, IMAGE_TYPES)
        on_step = on_step_of(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        embeddings = args.joined(image_embeddings)
        height, width = scalars.sides_of(
            args.pixels_of(embeddings.shape[2]) if height is None else height,
            args.pixels_of(embeddings.shape[3]) if width is None else width,
        )
        steps = values.whole("decoder_steps", num_inference_steps, "num_inference_steps")
        copies = values.whole("num_images", num_images_per_prompt, "num_images_per_prompt")
        count = len(embeddings) * copies
        scales = self._decoder_scales(guidance_scale, count, "guidance_scale")
        tile = self.sampling.stage_a_tile if tile is None else values.whole("stage_a_tile", tile, "tile")
        seeds, generators = scalars.drawn_by(generator, seed, count)
        noise, times = scalars.numbers_of("latents", latents, (4,)), scalars.times_of(timesteps)
        pooled, negative = pooled_of(
            self._stages.pooled,
            (prompt, prompt_embeds, prompt_embeds_pooled),
            (negative_prompt, negative_prompt_embeds, negative_prompt_embeds_pooled),
            len(embeddings),
        )
        batch = DecoderBatch(
            embeddings=np.repeat(embeddings, copies, axis=0),
            pooled=np.repeat(pooled, copies, axis=0),
            negative_pooled=np.repeat(negative, copies, axis=0),
            seeds=seeds,
            height=height,
            width=width,
            steps=steps,
            guidance=scales,
            sampling=self.sampling.ba,
            latents=noise,
            timesteps=times,
        )
        engine = self._stages.decoder()
        drawn = engine.latents(batch, generators, on_step)
        if output_type == "latent":
            output = ImagesOutput(drawn)
        else:
            parts = [engine.decode(one, self.sampling.stage_a_scale, tile) for one in drawn.split(1)]
            output = ImagesOutput(as_images(torch.cat(parts), output_type))
        return output if return_dict else output.as_tuple()

    def render(
        self,
        prompt: scalars.Texts = None,
        images: Any = None,
        height: int = 1024,
        width: int = 1024,
        prior_num_inference_steps: int = 20,
        prior_guidance_scale: float | Sequence[float] = 4.0,
        num_inference_steps: int = 10,
        decoder_guidance_scale: float | Sequence[float] | None = None,
        negative_prompt: scalars.Texts = None,
        prompt_embeds: scalars.Array | None = None,
        prompt_embeds_pooled: scalars.Array | None = None,
        negative_prompt_embeds: scalars.Array | None = None,
        negative_prompt_embeds_pooled: scalars.Array | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators | None = None,
        latents: scalars.Array | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        prior_callback_on_step_end: Callback | None = None,
        prior_callback_on_step_end_tensor_inputs: Sequence[str] = INPUTS,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = INPUTS,
        *,
        seed: scalars.Seeds = None,
        prior_timesteps: Sequence[float] | None = None,
        decoder_timesteps: Sequence[float] | None = None,
        decoder_latents: scalars.Array | None = None,
        tile: int | None = None,
        image_embeds: scalars.Array | None = None,
        init_image: Any = None,
        strength: float | None = None,
        mask: Any = None,
        control_image: Any = None,
        control_strength: float = 1.0,
        sca: float = 0.0,
        crp: float = 0.0,
    ) -> ImagesOutput | tuple:
        """Pictures of prompts: `prior`, then `decode`, at the sizes and steps of both.

        `latents` are Stage C's. Generators go on from the first stage into the second; a `seed` begins each stage anew,
        as rows of a prompt table do.

        Raises:
            SpecError: as both do, and before the first begins.
        """
        check_type(output_type, IMAGE_TYPES)
        self._stages.check_whole()
        on_step_of(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        height, width = scalars.sides_of(height, width)
        prompts = scalars.prompts_of(prompt, prompt_embeds)
        negatives = scalars.negatives_of(negative_prompt, negative_prompt_embeds, len(prompts))
        count = len(prompts) * values.whole("num_images", num_images_per_prompt, "num_images_per_prompt")
        seeds, generator = scalars.drawn_by(generator, seed, count)
        seed = seeds if generator is None else None
        steps = values.whole("decoder_steps", num_inference_steps, "num_inference_steps")
        prior_steps = values.whole("prior_steps", prior_num_inference_steps, "prior_num_inference_steps")
        prior_scales = scalars.scales_of("prior", prior_guidance_scale, count, "prior_guidance_scale")
        scales = self._decoder_scales(decoder_guidance_scale, count, "decoder_guidance_scale")
        times = scalars.times_of(decoder_timesteps, "decoder_timesteps")
        noise = scalars.latents_of(
            "decoder_latents", decoder_latents, count, latent_side(height), latent_side(width)
        )
        tile = None if tile is None else values.whole("stage_a_tile", tile, "tile")
        made = self.prior(
            prompts if prompt_embeds is None else None,
            images,
            height=height,
            width=width,
            num_inference_steps=prior_steps,
            timesteps=scalars.times_of(prior_timesteps, "prior_timesteps"),
            guidance_scale=prior_scales,
            negative_prompt=negatives if negative_prompt_embeds is None else None,
            prompt_embeds=prompt_embeds,
            prompt_embeds_pooled=prompt_embeds_pooled,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_embeds_pooled=negative_prompt_embeds_pooled,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
            latents=latents,
            seed=seed,
            callback_on_step_end=prior_callback_on_step_end,
            callback_on_step_end_tensor_inputs=prior_callback_on_step_end_tensor_inputs,
            image_embeds=image_embeds,
            init_image=init_image,
            strength=strength,
            mask=mask,
            control_image=control_image,
            control_strength=control_strength,
            sca=sca,
            crp=crp,
        )
        assert isinstance(made, PriorOutput)
        return self.decode(
            made.image_embeddings,
            None,
            steps,
            scales,
            prompt_embeds_pooled=made.prompt_embeds_pooled,
            negative_prompt_embeds_pooled=made.negative_prompt_embeds_pooled,
            generator=generator,
            seed=seed,
            latents=noise,
            output_type=output_type,
            return_dict=return_dict,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            height=height,
            width=width,
            timesteps=times,
            tile=tile,
        )

    def _decoder_scales(self, given: float | Sequence[float] | None, count: int, where: str) -> list[float]:
        scale = self.sampling.decoder_guidance_scale if given is None else given
        return scalars.scales_of("decoder", scale, count, where)
