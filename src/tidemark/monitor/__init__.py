"""Whether features are what they should be: agreement, drift, freshness, audit."""
