"""The kernel of the chapter "Decoding with a constant state": a state that is rounded."""
