"""Chapter 6: fewer bits for weights and activations, without training the network again."""
