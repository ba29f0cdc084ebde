"""Which lowering each call of an op gets: by setting, measurement or default."""
