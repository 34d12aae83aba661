"""Linen modules: pure functions of (parameters, arrays). Each can be used without the rest of the library."""
