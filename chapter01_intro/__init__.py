"""Chapter 1: episodes, and learning how to learn (the book's chapters 1 and 8)."""
