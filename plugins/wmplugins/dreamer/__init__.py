"""DreamerV2 (Hafner et al. 2021) as plug-ins: encoders, RSSM, decoders, heads, behavior."""
