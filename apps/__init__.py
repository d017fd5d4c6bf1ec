"""User space: the shell and every packaged app."""
