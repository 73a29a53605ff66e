"""`cni-faasm firewall-trust`: let a network's containers pass firewalld."""
