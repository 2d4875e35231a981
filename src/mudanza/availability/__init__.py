"""Availability: a host that is lost is proven dead, and its VMs run elsewhere."""
