"""Chapter 3: prototypical, relation and matching networks (the book's chapters 3 and 4)."""
