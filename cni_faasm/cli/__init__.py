"""The operator's tool. The plugin never imports it, so any library is welcome here."""
