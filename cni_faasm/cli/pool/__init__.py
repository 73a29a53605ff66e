"""`cni-faasm pool`: namespaces faasmns1..N, each attached to one network."""
