"""Chapter 1: episodes, learned optimisers and an LSTM as meta-learner (the book's chapter 1)."""
