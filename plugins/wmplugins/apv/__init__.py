"""APV (Seo et al. 2022): action-free pre-training from videos, as plug-ins on DreamerV2's parts."""
