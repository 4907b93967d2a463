"""Everything that writes online state."""
