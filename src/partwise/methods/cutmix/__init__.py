"""CutMix (Yun et al., ICCV 2019): classifiers whose decision can be located."""
