"""Stable Cascade in plain numbers: sizes, FLOPs, sampling, checkpoint layouts. No torch and no I/O."""
