"""The store, contexts and recall: what outlives a process."""
