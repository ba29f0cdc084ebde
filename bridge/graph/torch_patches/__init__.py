"""Patches of torch that hold while a model is captured and lowered; one file for each fault."""
