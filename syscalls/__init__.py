"""The vocabulary that both sides share: calls, replies, errors, the wire, the SDK."""
