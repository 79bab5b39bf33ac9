"""Networks as flat unit lists: the catalogue (no torch), the zoo that builds them, and what each unit costs."""
