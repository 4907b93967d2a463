"""Where served state lives: the protocol, its embedded implementations, and the row format."""
