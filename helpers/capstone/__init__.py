"""The last lesson: every choice of the course in one device."""
