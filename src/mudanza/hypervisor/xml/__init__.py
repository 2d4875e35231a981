"""From libvirt's XML to the model's nouns: pure, no host is asked."""
