"""The pages of the documentation, and what writes the parts of them that follow from the code (`docs.make`)."""
