"""ContextWM (Wu et al. 2023): context apart from dynamics, as plug-ins on APV's and DreamerV2's."""
