"""What hosts can do: the only room that imports libvirt. Nothing of libvirt's leaves it, only the model's nouns."""
