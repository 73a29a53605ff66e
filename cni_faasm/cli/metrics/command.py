"""Print the metrics, write them for node_exporter's textfile collector, or serve them."""

from typing import Annotated

import typer

from cni_faasm.cli import networks, output
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.metrics import families


def metrics(
    path: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="Write FILE, whole or not at all."),
    ] = "",
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            metavar="[ADDRESS:]PORT",
            help="Serve them by HTTP until it is ended; without ADDRESS to this host alone.",
        ),
    ] = "",
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    state_dir: networks.StateDir = "",
    as_json: output.AsJson = False,
) -> None:
    """Print metrics of every attachment and range as Prometheus reads them.

    For node_exporter's textfile collector let a timer write a file that ends in .prom. With
    --listen Prometheus asks for them itself, at /metrics. They tell names and addresses to
    whoever asks.

    Examples:

        cni-faasm metrics

        cni-faasm metrics --output /var/lib/node_exporter/cni_faasm.prom

        cni-faasm metrics --listen 9762
    """
    if listen:
        # A server of HTTP takes as long to load as a good part of all commands.
        from cni_faasm.cli.metrics import listening

        if path or as_json:
            raise ToolError(
                f"--listen and {'--output' if path else '--json'} exclude each other", "give one"
            )
        listening.serve(
            listening.place_of(listen),
            lambda: families.text(families.collect(conf_dir, state_dir, quiet=True)),
        )
        return
    found = families.collect(conf_dir, state_dir)
    if as_json:
        output.print_json({"metrics": [families.document(one) for one in found]})
        return
    text = families.text(found)
    if path:
        output.write_whole(path, text)
    else:
        typer.echo(text.decode(), nl=False)
