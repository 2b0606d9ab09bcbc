"""The other side: what kind of server it is, whether it is ready, and one of our own."""
