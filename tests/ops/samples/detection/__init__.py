"""Calls of the ops over boxes and regions of interest."""
