"""Compiled modules, the engine cache and its keys, explanations and timing."""
