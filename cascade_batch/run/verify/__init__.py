"""Whether a run is what it says: every image of the plan once, its bytes those of the manifest, no orphans.

`verify` only reads; it needs neither the prompt table, nor the model, nor torch. `reopen` takes
damaged shards back to "not done", so that the next render makes them again.
"""

from cascade_batch.run.verify.differences import Difference, Verification
from cascade_batch.run.verify.reopening import refuse_while_rendering, reopen
from cascade_batch.run.verify.runs import verify

__all__ = ["Difference", "Verification", "refuse_while_rendering", "reopen", "verify"]
