"""Payloads: what is known of them (`meta`) and the tensors themselves (`tensors`, the part that imports torch)."""
