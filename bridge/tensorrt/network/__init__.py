"""Lowers an exported program, converts it to a network, and builds the engine."""
