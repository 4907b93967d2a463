"""Stores: bytes by key, in memory, on this machine or in Redis."""
