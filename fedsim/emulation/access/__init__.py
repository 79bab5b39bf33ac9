"""Who may take part in an emulation, and who may read along: tokens, TLS, certificates for a laboratory."""
