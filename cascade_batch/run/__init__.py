"""What lies on storage of a run, object by object, and what is told from it alone (status, verify).

Nothing here plans or renders.
"""
