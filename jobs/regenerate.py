"""Bring a collection to what a prompt table asks for, as a Ray job; flags are those of `cascade-batch regenerate`.

Run:  ray job submit --working-dir . -- \
          python jobs/regenerate.py PROMPTS --into s3://bucket/collection --edition 2026-11-25

The job's driver joins the cluster that runs it. With `--edition`, the scheduled date say, a job that is submitted
again, or twice at once, makes that edition once. `ray job stop` ends it cleanly; submitting it again goes on.

`ray job submit` tells only 0 from the rest, so how it ended stands in the collection as well: in
`outcomes/<edition>.json`, or `outcomes/<number>.json` without `--edition`, and in `outcomes/last.json`.

Exit codes and the outcome's `state`:
  0    done: a new edition. nothing_to_do: the newest one, or the one of this name, is what the table asks for.
       Or skipped, with `--if-busy skip`: another process is at work on the collection
  1    failed, or incomplete: submit it again
  2    failed: bad input, nothing was spent
  3    too_many_failed: more failed rows than --max-failed-rows allows; no edition
  5    busy: another process is at work on the collection
  6    done_with_failed_rows: an edition, in which some rows have failed; the next regeneration tries them again
  130  interrupted

What was busy, skipped, or interrupted before it rendered writes no outcome, nor does a wrong flag or setting.
"""

import sys

from cascade_batch.cli import main

if __name__ == "__main__":
    sys.exit(main(["regenerate", *sys.argv[1:]]))
