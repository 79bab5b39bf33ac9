"""What nodes note down: one trace made of it, and a replay of what their scripts were given."""
