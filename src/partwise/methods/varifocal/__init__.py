"""Varifocal-Net (Qin et al., 2019): chromosomes named and turned upright, by a glance at the whole and a closer look."""
