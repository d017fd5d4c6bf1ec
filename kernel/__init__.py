"""Processes, dispatch, journal, tools, drivers: what runs behind the syscalls."""
