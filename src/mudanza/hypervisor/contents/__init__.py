"""What files of a host contain, in digests, read there or by way of libvirt."""
