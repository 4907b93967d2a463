"""Everything that reads vectors."""
