"""Files of a VM from host to host: what travels, how it is carried, and how it is compared."""
