"""Chapter 2: neurons that fire once, and say everything by when they do."""
