"""One sitting of a run, top to bottom: opened or created, its shards driven through a runner, its end written down."""
