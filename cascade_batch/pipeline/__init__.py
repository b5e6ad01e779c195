"""One sitting of a run, top to bottom: opened or created, its shards driven through a runner, its end written down.

What a step does to a shard belongs to `workers`; only `runners/ray_data.py` imports Ray.
"""
