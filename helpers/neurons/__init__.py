"""Chapter 1: spiking neurons, and events as vectors."""
