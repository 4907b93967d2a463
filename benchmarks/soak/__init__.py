"""Mixed load on the HTTP service while its parts fail: nothing wrong, nothing lost, memory flat."""
