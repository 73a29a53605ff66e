"""A small rtnetlink and nfnetlink codec, and the one owner of its sockets."""
