"""Where every tensor comes from: embedded, simulated, or real files on disk."""
