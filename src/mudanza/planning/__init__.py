"""Where should VMs be? Pure: one snapshot in, a decision with its reasons out."""
