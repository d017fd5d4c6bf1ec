"""ask: one question, one answer."""
