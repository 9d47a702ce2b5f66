//! `NumPy` arrays to token slices: the one place where dtypes are matched.
