"""Address management in host-local style."""
