"""Studies: one configuration in many variants, side by side; `launch/study.py` runs them."""
