"""Chapter 5: MAML and its variants (the book's chapter 6)."""
