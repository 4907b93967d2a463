"""Thin shells over `Store`."""
