"""Chapter 5: learning on, by prompts."""
