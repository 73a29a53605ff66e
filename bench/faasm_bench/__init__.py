"""Benchmarks of the built plugin, side by side with the reference chain.

Only the standard library and the tools of a base system are used (`ip` and `tc`, and
`iperf3` for the load), so a benchmark needs no virtual environment.
"""
