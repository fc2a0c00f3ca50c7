"""Pure functions on tensors: no files, no state, nothing imported from the rest of the package."""
