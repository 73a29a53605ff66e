"""`cni-faasm check`: every attachment against its record, once or as things change."""
