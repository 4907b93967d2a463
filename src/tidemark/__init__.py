"""Tidemark: features defined once, computed in training and in serving with the same code."""

__version__ = "0.1.0"
