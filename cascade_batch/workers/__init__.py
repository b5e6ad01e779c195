"""The steps that a shard goes through, one shard in and one shard out, and the workers that hold an engine.

They know their run by a reference, and neither plans, limits nor Ray.
"""
