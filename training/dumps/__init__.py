"""CONTRACT: dumps of attention statistics and raw scores in Zarr. `sums`: what is computed; `store`: how it is kept."""
