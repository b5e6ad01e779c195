"""Stable Cascade's networks as modules; their parameter names are the published checkpoint's."""
