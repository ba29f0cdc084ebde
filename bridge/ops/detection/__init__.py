"""Ops over boxes and regions of interest."""
