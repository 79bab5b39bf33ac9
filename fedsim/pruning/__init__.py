"""Making models smaller before they are deployed: a module in; a smaller module, what it keeps, and a report out.

`reconvene` is for untrained convolutional networks, `mosaic` for trained language models. Both plan first and cut
afterwards; what they cut is verified, always. Knows nothing of federation.
"""
