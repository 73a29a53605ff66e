"""`cni-faasm network-check` and `iperf-servers`: measure and judge shaped namespaces."""
