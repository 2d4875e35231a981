"""Bringing VMs back where their host is lost: replicas kept up to date, restore points, failover."""
