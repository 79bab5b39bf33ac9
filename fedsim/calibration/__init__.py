"""Measuring this machine and fitting a profile to what was measured."""
