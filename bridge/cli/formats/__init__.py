"""What `bridge export` makes of something else than an engine: one format a file."""
