"""HTTP: the six endpoints of the client, and what scdctl asks for."""
