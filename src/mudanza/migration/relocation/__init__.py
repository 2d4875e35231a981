"""Disks of a VM to another place on its own host."""
