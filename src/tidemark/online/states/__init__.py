"""States: where the rows of a view are, what they hold, and what they have not taken in yet."""
