"""Chapter 6: Meta-SGD and Reptile (the book's chapter 7)."""
