"""Stable Cascade in plain numbers: stages, parts, sizes, FLOPs, sampling, conditions, checkpoint layouts.

No torch, no Arrow and no I/O.
"""
