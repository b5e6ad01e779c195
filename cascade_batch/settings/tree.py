"""The spec: one frozen tree that says everything about a run, with the published pipelines' defaults."""

from dataclasses import dataclass, field

from cascade_batch.model.stages import PerPool

DEFAULT_MODEL = "mini"
AUTO_BATCH, PROBE_BATCH, DEFAULT_BATCH = "auto", "probe", 4


@dataclass(frozen=True, kw_only=True)
class PromptsSpec:
    uri: str = ""
    """The prompt table: one Parquet file, a folder, or a glob."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column name -> the table's; a name that is not ours renames a carried column."""
    limit: int | None = None
    """Render only the first N prompts."""


@dataclass(frozen=True, kw_only=True)
class DtypeSpec(PerPool[str]):
    c: str = "auto"
    ba: str = "auto"
    """auto is bfloat16 on a GPU and float32 on a CPU."""


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    uri: str
    """A safetensors file, of the official trainer, the community or PEFT, or a folder or repository with one."""
    weight: float = 1.0
    alpha: float | None = None
    """Of its training; only for a file that does not tell, such as one of PEFT without its `adapter_config.json`."""
    tokens: dict[str, str] = field(default_factory=dict)
    """New token -> the word it starts from, for a file that brings tokens of its own."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    name: str = DEFAULT_MODEL
    """An embedded model's name, a folder in the diffusers layout, a hub id, or a URL."""
    stage_c: str | None = None
    stage_b: str | None = None
    stage_a: str | None = None
    text_encoder: str | None = None
    tokenizer: str | None = None
    image_encoder: str | None = None
    effnet_encoder: str | None = None
    controlnet: str | None = None
    """Each overrides `name` for one part: a part's folder or file, a repository, or a subfolder of `name`."""
    loras: tuple[LoraSpec, ...] = ()
    """Merged into Stage C and the text encoder, one after the other."""
    variant: str | None = None
    """File variant, as `bf16` in `diffusion_pytorch_model.bf16.safetensors`."""
    dtype: DtypeSpec = field(default_factory=DtypeSpec)


@dataclass(frozen=True, kw_only=True)
class RenderSpec:
    """Defaults of rows that do not say otherwise; those of the published pipelines."""

    width: int = 1024
    height: int = 1024
    num_images: int = 1
    negative_prompt: str = ""
    prior_steps: int = 20
    prior_guidance_scale: float = 4.0
    decoder_steps: int = 10
    decoder_guidance_scale: float = 0.0
    """If a spec does not say, it is the sampler preset's."""


@dataclass(frozen=True, kw_only=True)
class StageSamplerSpec:
    """What one stage does otherwise than the preset; the fields of `sampling.StageSampling`, None: as the preset."""

    method: str | None = None
    shift: float | None = None
    guidance_rescale: float | None = None
    guidance_end: float | None = None
    guidance_from: float | None = None
    guidance_to: float | None = None
    result: str | None = None
    ratio_of_signal: bool | None = None


@dataclass(frozen=True, kw_only=True)
class SamplerSpec:
    preset: str = "diffusers"
    """diffusers or original, see `sampling.PRESETS`."""
    c: StageSamplerSpec = field(default_factory=StageSamplerSpec)
    ba: StageSamplerSpec = field(default_factory=StageSamplerSpec)
    stage_a_scale: float | None = None
    """Factor on Stage B's latents; None: the preset's, else the checkpoint's."""
    stage_a_tile: int | None = None
    """Side in pixels of the parts that Stage A decodes, for pictures beyond a card's memory; changes last bits."""


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """How prompts and negative prompts are read; the fields of `texts.TextOptions`."""

    long_prompts: str = "truncate"
    """truncate, or windows: texts of any length, encoded in windows of what the text tower has room for."""
    weighting: bool = False
    """Whether `(word:1.3)`, `(word)` and `[word]` in a text are weights, see `weighting`."""


@dataclass(frozen=True, kw_only=True)
class ShardsSpec:
    prompts: int = 64
    images: int = 256


@dataclass(frozen=True, kw_only=True)
class PoolSpec:
    actors: int | None = None
    """None: from what the cluster has, or 1 where `max_actors` is given."""
    max_actors: int | None = None
    """What the pool may grow to while shards wait and the cluster has room; None: it stays as it is."""
    gpus: float | None = None
    """GPU share of one actor; 0 makes a CPU pool. None: from what the cluster has."""
    batch: int | str = AUTO_BATCH
    """Images per forward; part of the numerics, fixed at a run's first use. `auto`: each kind of accelerator measures
    which batch of each picture size is fastest within its memory, and a CPU takes 4; `probe`: a CPU measures too."""
    threads: int | None = None
    """CPU threads of one actor; None: twice its part of the cores, which it has while others wait."""


@dataclass(frozen=True, kw_only=True)
class PoolsSpec(PerPool[PoolSpec]):
    c: PoolSpec = field(default_factory=PoolSpec)
    ba: PoolSpec = field(default_factory=PoolSpec)
    rates_from: str | None = None
    """An earlier run of like pictures, whose seconds per image split the GPUs where `actors` are open; None: FLOPs."""


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    uri: str = ""
    """The run's folder or bucket prefix."""
    png_level: int = 6
    """libdeflate's level for the PNGs, 0 to 12: 8 takes up to five times as long as 6 for up to 8 % fewer bytes."""


@dataclass(frozen=True, kw_only=True)
class LimitsSpec:
    failed_rows: int | None = None
    """Stop once more rows than this have failed in the whole run; None: never."""
    attempts: int = 3
    """Worker deaths that one prompt may cost; the last attempt runs its shard one prompt at a time."""
    picture_pixels: int = 2**26
    """Larger pictures of the prompt table fail their rows unread: a few kilobytes of PNG can unpack to any size."""


@dataclass(frozen=True, kw_only=True)
class LogSpec:
    level: str = "info"
    format: str = "text"


@dataclass(frozen=True, kw_only=True)
class Spec:
    seed: int = 0
    """Run seed, for rows without a seed of their own."""
    prompts: PromptsSpec = field(default_factory=PromptsSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    render: RenderSpec = field(default_factory=RenderSpec)
    sampler: SamplerSpec = field(default_factory=SamplerSpec)
    text: TextSpec = field(default_factory=TextSpec)
    shards: ShardsSpec = field(default_factory=ShardsSpec)
    pools: PoolsSpec = field(default_factory=PoolsSpec)
    output: OutputSpec = field(default_factory=OutputSpec)
    limits: LimitsSpec = field(default_factory=LimitsSpec)
    log: LogSpec = field(default_factory=LogSpec)
