"""More than one process: shards of a batch, processes that share them, sharded parameters."""
