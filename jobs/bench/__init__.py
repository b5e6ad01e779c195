"""Benchmarks: the networks beside diffusers (`python -m jobs.bench`), planning and the driver."""
