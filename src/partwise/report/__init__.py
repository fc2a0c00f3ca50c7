"""Figures and pages drawn from typed values and run folders; a live model is never seen here."""
