"""Weights from safetensors files into networks: strict, and never twice in memory."""
