"""The networks themselves: one family a module, each network a function that returns a `UnitList`.

The catalogue names the functions; a module is imported when one of its networks is asked for, so that a small network
costs no import of torchvision or transformers.

No unit begins with an in-place operator: its input may be activations that someone else still holds. What is constant
(tables of angles, masks, indices of positions) is no buffer: it does not travel with the weights.
"""
