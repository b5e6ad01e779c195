"""The Python API: a model in this process, called with the argument names of the published pipelines.

It knows no runs, prompt tables or Ray.
"""

from cascade_batch.api.model import Cascade
from cascade_batch.api.outputs import ImagesOutput, PriorOutput

__all__ = ["Cascade", "ImagesOutput", "PriorOutput"]
