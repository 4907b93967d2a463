"""Trees: rows of entities with very many events, under directories that sum them up."""
