"""Helpers that do not depend on torch graphs or TensorRT: logging, files, locks, text, reversible patches."""
