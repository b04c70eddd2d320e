"""Terminals in the browser: a page, and the WebSocket between it and a shell in a sandbox."""
