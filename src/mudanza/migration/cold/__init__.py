"""A switched-off VM, with everything it is, from host to host."""
