"""chat: a conversation that remembers."""
