"""`cni-faasm repair`: put back what has drifted, and only that."""
