"""Things of our own on a host that go again: throw-away domains, markers, overlays, carriers."""
