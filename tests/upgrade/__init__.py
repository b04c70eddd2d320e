"""Two releases of the service on one database, one after the other and side by side."""
