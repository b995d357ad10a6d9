"""Chapter 3: attention over space and time, and convolutions in tensor-train form."""
