"""`cni-faasm gc`: find and remove what belongs to nothing alive."""
