"""What jobs without a journal have left on the hosts: found, told, adopted or removed."""
