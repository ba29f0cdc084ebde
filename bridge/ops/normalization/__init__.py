"""Ops that normalise values by their neighbours."""
