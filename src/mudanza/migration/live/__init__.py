"""A running VM from host to host."""
