"""Which images make up each shard, and which workers a cluster has room for.

Plain arithmetic over prompt tables: it writes nothing, and starts neither torch nor Ray.
"""
