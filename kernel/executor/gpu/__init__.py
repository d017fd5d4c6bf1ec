"""Keys and values in pages on a GPU, by Triton ops of ours."""
