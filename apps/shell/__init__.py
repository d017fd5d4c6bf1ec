"""shell: runs apps line by line."""
