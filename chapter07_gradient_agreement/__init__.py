"""Chapter 7: gradient agreement (the book's chapter 8)."""
