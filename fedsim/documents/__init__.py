"""YAML files of a user's: read strictly, checked by pydantic models, every fault in a sentence with its line.

Knows YAML, places and pydantic; nothing of what scenarios, profiles and links contain.
"""
