"""Rows: the events of one entity as bytes, and new events among them."""
