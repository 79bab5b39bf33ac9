"""The training systems: each a file with two scripts and the messages they exchange."""
