"""`cni-faasm install`, `uninstall` and `node`: the bundle on a host, and what its daemons are told."""
