"""Payloads: what is known of them (`meta`, `codecs`), the tensors themselves, and how these travel.

`tensors`, `memory` and `coding` import torch.
"""
