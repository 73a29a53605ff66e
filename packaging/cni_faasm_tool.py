"""Start the operator's tool inside its bundle."""

from cni_faasm.cli.main import main

main()
