"""The networks on a device, and the only room that imports torch: batches of text in, embeddings and pixels out.

It knows tensors and local files, no storage, tables or runs.
"""
