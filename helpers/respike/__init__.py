"""Video by two networks: an ordinary one looks at few frames, a spiking one at what changes between them."""
