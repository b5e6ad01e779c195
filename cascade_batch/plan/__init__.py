"""Which images make up each shard, and which workers a cluster has room for: plain arithmetic, no torch and no Ray."""
