"""DrQ-v2 (Yarats et al. 2021): model-free control from pixels."""
