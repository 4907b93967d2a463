"""How aggregates are computed: one implementation of each, for training, serving and audit."""
