"""Which networks a checkpoint holds, in which layout, told by its keys and shapes alone. No torch here.

Published checkpoints come in two layouts. The diffusers layout has one folder per part with a `config.json`;
the original release has one file per part without one, and some names differ (`renames.py`). Community files put
several parts into one file, each behind a prefix, and those that ComfyUI saved name attention in a third way.
Whatever the file, the names used inside this project are those of the diffusers layout.
"""

from cascade_batch.model.layouts.configs import ATTENTION, RES, TIME, config_note, infer_config
from cascade_batch.model.layouts.header import Entry, Header, read_header
from cascade_batch.model.layouts.old_names import modern
from cascade_batch.model.layouts.part_header import Merged, PartHeader, merge, part_header
from cascade_batch.model.layouts.recognition import (
    Found,
    check_unscaled,
    first_keys,
    recognise,
    scales,
    strangers,
)
from cascade_batch.model.layouts.renames import Source, original_name

__all__ = [
    "ATTENTION",
    "RES",
    "TIME",
    "Entry",
    "Found",
    "Header",
    "Merged",
    "PartHeader",
    "Source",
    "check_unscaled",
    "config_note",
    "first_keys",
    "infer_config",
    "merge",
    "modern",
    "original_name",
    "part_header",
    "read_header",
    "recognise",
    "scales",
    "strangers",
]
