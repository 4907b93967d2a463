"""Tidemark beside other feature stores, on one machine and in one run."""
