"""Real libvirt hosts on one machine, each in namespaces of its own: for the demo, the tests, the benchmarks."""
