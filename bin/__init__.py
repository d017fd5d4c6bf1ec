"""Programs: the command line, the daemon, the doctor."""
