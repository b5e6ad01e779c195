"""What lies on storage of a run: keys, schemas, records, shards, manifests; and what is told from them alone.

Nothing here renders or plans.
"""
