"""Adam-v2 and Adam-v1 (Hosseinzadeh Taher et al., 2024, 2023): encoders of anatomy, learned without labels."""
