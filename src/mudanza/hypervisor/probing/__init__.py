"""What only trying can tell about a VM and a pair of hosts."""
