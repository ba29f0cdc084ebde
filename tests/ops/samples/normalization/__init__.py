"""Calls of the ops that normalise values by their neighbours."""
