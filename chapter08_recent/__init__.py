"""Chapter 8: recent advances (the book's chapter 9)."""
