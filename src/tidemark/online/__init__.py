"""Where served state lives: the protocol, its implementations, and the row format."""
