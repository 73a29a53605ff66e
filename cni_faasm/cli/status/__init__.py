"""`cni-faasm status`: every attachment with its limits and what passes, once or live."""
