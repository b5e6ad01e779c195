"""Benchmarks: the networks beside diffusers (`python -m jobs.bench`), plans, the driver, the pools, large runs."""
