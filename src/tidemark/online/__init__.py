"""Where served state lives: bytes by key (`stores`), and what the bytes are.

The events of an entity are a row (`rows`), or a tree of rows if they are very many (`trees`); what
is known of all rows of a view is in its record (`states`).
"""
