"""Distributed batch rendering with Stable Cascade: prompt tables in, PNGs and manifests out."""

__version__ = "0.1.0"
