"""The ordinary networks that the course's methods are applied to."""
