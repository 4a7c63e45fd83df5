"""Chapter 4: memory: the neural Turing machine and memory-augmented networks."""
