"""What definitions mean: types, expressions, aggregates, windows and the resolved graph."""
