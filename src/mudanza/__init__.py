"""mudanza moves virtual machines between plain libvirt/QEMU hosts while they run."""

__version__ = "0.1.0"
