"""`cni-faasm validate`: what is wrong with a configuration, and what of it will surprise."""
