"""Collections: a folder or prefix that holds runs and one Delta table of the images of a prompt table as it is now."""
