"""Render a prompt table as a Ray job; flags are those of `cascade-batch render`.

Run:  ray job submit --working-dir . -- python jobs/render.py PROMPTS --out s3://bucket/run

The job's driver joins the cluster that runs it. `ray job submit` tells only success from failure, so the
outcome stands in `<run>/outcome.json` as well. `ray job stop` ends it cleanly; submitting it again goes on.
Exit codes: 0 finished, 1 failed, 2 bad input, 3 more failed rows than allowed, 130 interrupted.
"""

import sys

from cascade_batch.cli import main

if __name__ == "__main__":
    sys.exit(main(["render", *sys.argv[1:]]))
