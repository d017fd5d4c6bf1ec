"""One process, one model: pages, batches, scheduling, sampling."""
