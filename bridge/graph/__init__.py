"""Capture of a model, its dynamic extents, and the lines of the model that its nodes come from."""
