"""The spec of a run: its tree, how it is read and checked, and what a resume may change.

No I/O: it is handed a file's text.
"""

from cascade_batch.settings.loading import load_spec, spec_from_dict, spec_to_dict
from cascade_batch.settings.resume import binding_fields, differing_fields
from cascade_batch.settings.samplers import sampling_of
from cascade_batch.settings.texts import text_options_of
from cascade_batch.settings.tree import (
    AUTO_BATCH,
    DEFAULT_BATCH,
    DEFAULT_MODEL,
    PROBE_BATCH,
    DtypeSpec,
    LimitsSpec,
    LogSpec,
    LoraSpec,
    ModelSpec,
    OutputSpec,
    PoolSpec,
    PoolsSpec,
    PromptsSpec,
    RenderSpec,
    SamplerSpec,
    ShardsSpec,
    Spec,
    TextSpec,
)

__all__ = [
    "AUTO_BATCH",
    "DEFAULT_BATCH",
    "DEFAULT_MODEL",
    "PROBE_BATCH",
    "DtypeSpec",
    "LimitsSpec",
    "LogSpec",
    "LoraSpec",
    "ModelSpec",
    "OutputSpec",
    "PoolSpec",
    "PoolsSpec",
    "PromptsSpec",
    "RenderSpec",
    "SamplerSpec",
    "ShardsSpec",
    "Spec",
    "TextSpec",
    "binding_fields",
    "differing_fields",
    "load_spec",
    "sampling_of",
    "spec_from_dict",
    "spec_to_dict",
    "text_options_of",
]
