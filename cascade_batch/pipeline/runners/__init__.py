"""How shards get from step to step: in one process, or over Ray Data, which `ray_data.py` alone imports."""
