"""summarize: the key sentences of a text file."""
