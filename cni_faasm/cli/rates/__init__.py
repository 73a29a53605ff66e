"""`cni-faasm set-rate` and `apply`: other limits for running containers."""
