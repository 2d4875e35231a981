"""Carrying plans over, and knowing how busy everybody is: many VMs at once."""
