"""The operator's tool; any library is allowed here."""
