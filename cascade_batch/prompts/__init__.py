"""The prompt table: found, opened and checked once, then read by row ranges.

No torch, no Ray, and nothing is written.
"""

from cascade_batch.prompts.carrying import check_carried
from cascade_batch.prompts.digest import rows_sha256
from cascade_batch.prompts.opening import open_table
from cascade_batch.prompts.readers import reader_notes
from cascade_batch.prompts.requests import image_requests
from cascade_batch.prompts.rows import first_prompts, read_rows
from cascade_batch.run.prompt_table import PromptFile, PromptTable

__all__ = [
    "PromptFile",
    "PromptTable",
    "check_carried",
    "first_prompts",
    "image_requests",
    "open_table",
    "read_rows",
    "reader_notes",
    "rows_sha256",
]
