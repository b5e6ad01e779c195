"""The networks on a device: batches of text in, embeddings and pixels out.

Of the rooms below the API only this one imports torch, and it knows tensors and local files alone: no storage,
settings, tables or runs.
"""
