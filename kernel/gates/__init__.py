"""Where others reach the kernel: apps by an inherited socketpair, people by a Unix socket."""
