"""`cni-faasm metrics`: what Prometheus reads, once, to a file, or whenever it asks."""
