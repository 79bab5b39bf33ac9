"""The formats of recordings that fedsim reads, one module each; `reading` is what they have in common."""
