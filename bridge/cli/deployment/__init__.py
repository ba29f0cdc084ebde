"""`bridge verify`, which a machine that got an engine asks first, and what `bridge export` makes of models."""
