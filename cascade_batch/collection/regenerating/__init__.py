"""Bringing a collection to what a table asks for: key, join, render the rest, commit an edition."""
